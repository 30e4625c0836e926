"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs" / "tools")]

from package_page import PAGES, Release  # noqa: E402 - from the folder above

import iii_resilience  # noqa: E402

project = "iii-resilience"
author = "the iii-resilience contributors"
project_copyright = author
version = release = iii_resilience.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["tools", "_site"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# A policy file in a block is highlighted as YAML, a terminal session as console output.
suppress_warnings = ["myst.header"]  # included pages begin below the title

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = True
napoleon_use_ivar = True
default_role = "py:obj"  # a name in single backquotes is a link if the site knows it
add_module_names = False

pygments_dark_style = "github-dark"  # furo's default underlines module names

html_theme = "furo"
html_title = "iii-resilience"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

_RELEASE = Release.of(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
html_baseurl = _RELEASE.documentation

_LINK = re.compile(r"\[([^\]\n]*)\]\(((?:\.\./)*[\w./-]+)((?:#[\w-]+)?)\)")


def _on_site(app: Any, name: str, source: list[str]) -> None:
    """Let links to files of the repository lead to their pages, or to the forge, or be text.

    MyST makes a download of a link to an example.
    """
    folder = (Path(app.srcdir) / name).parent

    def link(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if not target.is_relative_to(ROOT) or target.is_relative_to(app.srcdir):
            return match[0]
        path = target.relative_to(ROOT).as_posix()
        if path.startswith("examples/"):
            return match[0]
        page, forge = PAGES.get(path), _RELEASE.link(path, release)
        to = forge if page is None else f"/{page}.md{match[3]}"
        return match[1] if to is None else f"[{match[1]}]({to})"

    source[0] = _LINK.sub(link, source[0])


def _without_sentinels(*given: Any) -> tuple[str | None, str | None]:
    """Show defaults that attrs makes anew for each object as an ellipsis."""
    signature, returns = given[5], given[6]
    return (signature and signature.replace("=NOTHING", "=..."), returns)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _without_sentinels)
    app.connect("source-read", _on_site)

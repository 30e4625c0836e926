"""The built wheel: its metadata, and the package in a fresh environment on every interpreter.

`make test-long` runs the tests in fresh environments. They need a package index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
from package_page import Release, packaged
from support.paths import DOCS, ROOT

import iii_resilience

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "policies", "docs/tools")

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICKSTART = BLOCK.findall((DOCS / "start" / "quickstart.md").read_text(encoding="utf-8"))


def interpreters() -> dict[str, str]:
    """The interpreters from 3.11 on, by their version: in PATH, and those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in range(11, 20):
        name = f"python3.{minor}"
        installed = sorted(pyenv.glob(f"3.{minor}.*/bin/{name}"))
        path = str(installed[-1]) if installed else shutil.which(name)
        if path is not None:
            found[f"3.{minor}"] = path
    return found


FOUND = interpreters() or {"current": sys.executable}


def run(*command: str | Path, cwd: Path | None = None, **more: str) -> str:
    environment = {"PATH": os.environ["PATH"], "OTEL_ENABLED": "false", **more}
    ran = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def build(folder: Path, **addresses: str) -> Path:
    """Build a wheel, with the addresses in its pyproject.toml."""
    for name in SOURCES:
        to = folder / "project" / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to)
    settings = folder / "project" / "pyproject.toml"
    for name, address in addresses.items():
        text = settings.read_text(encoding="utf-8")
        assert text.count(f'{name} = ""') == 1
        settings.write_text(text.replace(f'{name} = ""', f'{name} = "{address}"'), "utf-8")
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    run(*command, cwd=folder / "project")
    (built,) = folder.glob("*.whl")
    return built


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = f"iii_resilience-{iii_resilience.__version__}.dist-info/METADATA"
        return message_from_string(archive.read(name).decode())


def urls(read: Message) -> dict[str, str]:
    return dict(url.split(", ", 1) for url in read.get_all("Project-URL", []))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", FOUND)
def test_wheel_works_in_fresh_environment(version: str, wheel: Path, tmp_path: Path) -> None:
    run(FOUND[version], "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}[iii,cli,testing]")

    command = tmp_path / "env" / "bin" / "iii-resilience"
    assert run(command, "--version").strip() == iii_resilience.__version__
    assert "transient" in run(command, "explain", "TIMEOUT")
    for number, code in enumerate(QUICKSTART):
        program = tmp_path / f"{number}.py"
        program.write_text(code, encoding="utf-8")
        run(python, program)


def test_wheel_holds_package_and_policies_only(wheel: Path) -> None:
    listed = run(sys.executable, "-m", "zipfile", "-l", wheel).splitlines()[1:]
    tops = {line.split("/")[0] for line in listed}
    assert tops == {"iii_resilience", f"iii_resilience-{iii_resilience.__version__}.dist-info"}
    names = [line.split()[0] for line in listed]
    assert "iii_resilience/py.typed" in names
    assert "iii_resilience/policies/payments.yaml" in names


def test_policies_are_found_where_wheel_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    """What it depends on is borrowed from this environment, whose own installation is not."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    names = sorted(path.stem for path in ROOT.glob("policies/*.yaml"))
    code = (
        "import iii_resilience as r, json, pathlib\n"
        "folder = pathlib.Path(r.__file__).parent / 'policies'\n"
        "print(folder, sorted(path.name for path in folder.iterdir()))\n"
        f"books = [r.load_policies('builtin:' + n) for n in {names!r}]\n"
        "print([book.policy_set.default for book in books])\n"
        "print(books[3].explain('payments::charge')['attempts'].origin)\n"
        "assert json.loads((folder / 'schema.json').read_text())\n"
    )
    path = os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib")])
    # Without the site directory no .pth file is followed, that of this environment neither.
    said = run(sys.executable, "-S", "-W", "error", "-c", code, PYTHONPATH=path)
    place, books, origin = said.splitlines()
    files = sorted([*(f"{name}.yaml" for name in names), "schema.json"])
    assert place == f"{tmp_path / 'iii_resilience' / 'policies'} {files}"
    assert books == str(names)
    assert origin.startswith("builtin:payments:")


def test_without_addresses_nothing_leads_nowhere(wheel: Path) -> None:
    read = metadata(wheel)
    text = str(read.get_payload())
    assert read["Description-Content-Type"] == "text/markdown"
    assert "# iii-resilience" in text
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    assert "![" not in text
    assert "A simulation with the library's own code" in text  # the link's text is left
    assert "[tenacity](https://tenacity.readthedocs.io)" in text
    assert urls(read) == {"Engine": "https://iii.dev"}


def test_addresses_become_urls_and_absolute_links(tmp_path: Path) -> None:
    forge, site = "https://forge.example/iii-resilience", "https://docs.example/iii-resilience"
    read = metadata(build(tmp_path, repository=forge, documentation=f"{site}/"))
    text = str(read.get_payload())
    tag = f"v{iii_resilience.__version__}"
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    assert f"({forge}/raw/{tag}/docs/pictures/brownout.svg)" in text
    assert f"[quickstart without an engine]({site}/start/quickstart.html)" in text
    assert f"[all pages]({site}/)" in text
    assert f"[Apache-2.0]({forge}/blob/{tag}/LICENSE)" in text
    assert urls(read) == {
        "Homepage": site,
        "Documentation": site,
        "Source": forge,
        "Changelog": f"{site}/project/changelog.html",
        "Issues": f"{forge}/issues",
        "Engine": "https://iii.dev",
    }


def test_every_linked_file_exists_on_site_or_forge(wheel: Path, tmp_path: Path) -> None:
    """A link of the README to a file that neither address covers would become plain text."""
    forge = "https://forge.example/p"
    text = str(metadata(build(tmp_path, repository=forge)).get_payload())
    linked = re.findall(rf"{forge}/(?:blob|raw)/v[^/]+/([^)#]+)", text)
    assert len(linked) > 25
    assert [path for path in linked if not (ROOT / path).is_file()] == []
    assert len(text.splitlines()) > len(str(metadata(wheel).get_payload()).splitlines())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repository": "http://forge.example/p"}, "an https:// address, or empty"),
        ({"documentation": "docs.example"}, "an https:// address, or empty"),
        ({"raw": "{repo}/{path}"}, "its parts may be"),
    ],
)
def test_wrong_address_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Release(**given)


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="release has forge: allowed are repository, doc"):
        Release.of({"tool": {"iii-resilience": {"release": {"forge": "x"}}}})


def test_code_is_no_link() -> None:
    code = "```python\nhandlers[name](payload)\n```\n"
    assert packaged(f"[a](b.md)\n{code}", Release(), "1") == f"a\n{code}"


def test_site_alone_serves_picture_and_pages() -> None:
    site = Release(documentation="https://docs.example")
    text = "![curve](docs/pictures/x.svg)\n\nsee [one](docs/a/b.md#c) and [two](LICENSE)\n"
    assert packaged(text, site, "1") == (
        "![curve](https://docs.example/_images/x.svg)\n\n"
        "see [one](https://docs.example/a/b.html#c) and two\n"
    )

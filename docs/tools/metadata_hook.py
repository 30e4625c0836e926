"""What hatchling asks for when it builds a package: the project URLs and the README."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from package_page import Release, packaged


class PackagePage(MetadataHookInterface):
    """Fills in what the addresses in pyproject.toml decide."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the fields `readme` and `urls` of the project; `version` is known already."""
        root = Path(self.root)
        release = Release.of(tomllib.loads((root / "pyproject.toml").read_text("utf-8")))
        text = packaged((root / "README.md").read_text("utf-8"), release, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = release.urls(metadata["version"])

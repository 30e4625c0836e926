"""Where the project's own files are."""

from __future__ import annotations

from pathlib import Path

import iii_resilience

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
PACKAGE = Path(iii_resilience.__file__).parent

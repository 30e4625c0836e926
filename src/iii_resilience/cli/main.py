"""The entry point of the command ``iii-resilience``.

Each command's work is done elsewhere. Needs the extra ``cli``.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without the extra, say what to install."""
    try:
        from iii_resilience.cli.app import app  # noqa: PLC0415 - typer is an extra
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.exit(
            "iii-resilience: the command line needs an extra: "
            "pip install 'iii-resilience[iii,cli,testing]'"
        )
    app()

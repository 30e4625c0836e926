"""The entry point of the command ``iii-resilience``.

Each command's work is done elsewhere. Needs the extra ``cli``.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


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
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 shows "?" for what it has no character for.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        _drop_output()
        sys.exit(f"iii-resilience: {error.strerror or error}")


def _drop_output() -> None:
    """What could not be written would be tried again, and complained of, at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

"""The console of the commands, and the one line printed before a failed exit.

Knows nothing of any command.
"""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from iii_resilience.cli.terminal_text import plain, without_credentials


def flag(words: str, *names: str) -> Any:
    """An option that takes no value; the help shows no type beside it.

    Args:
        words: The help.
        names: Its names; none for that of the parameter and its opposite.
    """
    return typer.Option(*names, help=words, metavar="")


AsJson = Annotated[bool, flag("Print JSON.", "--json")]


def safe(value: object) -> str:
    """A text from outside as a table of rich holds it: no markup, escapes or credentials."""
    return escape(plain(without_credentials(str(value))))


def console() -> Console:
    """The terminal's own width; where there is no terminal, wide enough for the tables."""
    made = Console()
    return made if made.is_terminal else Console(width=100)


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong on standard error, and end.

    Args:
        message: What is wrong.
        code: The exit code: 2 for a command that makes no sense, 1 for one that did not succeed.
    """
    Console(stderr=True).print(f"[red]iii-resilience:[/red] {safe(message)}", soft_wrap=True)
    raise typer.Exit(code)

"""The order of decorators around one function: which are inside, and which must not be.

Knows nothing of what the decorators do.
"""

from __future__ import annotations

_MARK = "_iii_resilience_wrapped"  # functools.wraps hands it on to decorators in between


def mark_wrapped(wrapper: object, name: str, handler: object) -> None:
    """Record on a wrapper what it is, and what is inside of it.

    Args:
        wrapper: The wrapper; an object that takes attributes.
        name: The decorator's name.
        handler: What it decorates.
    """
    setattr(wrapper, _MARK, (name, *wrapped_by(handler)))


def wrapped_by(handler: object) -> tuple[str, ...]:
    """The names of the wrappers around a handler, the outermost first."""
    found = getattr(handler, _MARK, ())
    return found if isinstance(found, tuple) else ()


def refuse_inside(name: str, handler: object, **others: str) -> None:
    """Refuse a wrapper around others that it must not stand around.

    Args:
        name: The wrapper.
        handler: What it decorates.
        **others: The names of those that must not be inside, and why.

    Raises:
        TypeError: One of them is.
    """
    for other in wrapped_by(handler):
        if other == name and name in others:
            raise TypeError(f"@{name} decorates a handler once: {others[name]}")
        if other in others:
            raise TypeError(
                f"@{name} outside of @{other}: {others[other]}. Write\n"
                f"@{other}(...)\n@{name}(...)\ndef handler(data): ..."
            )

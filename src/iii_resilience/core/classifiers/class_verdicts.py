"""The verdicts about classes of exceptions: looked up where the class says all there is to say.

What an instance says is computed each time: its code, its text where a text can matter, its causes,
and the details that a row of the table of libraries, or a user's callable, reads from it. Knows
nothing of how a verdict is made.
"""

from __future__ import annotations

from typing import Any

from iii_resilience.core.classifiers import registered_exceptions
from iii_resilience.core.classifiers.builtin_exceptions import telling, text_of
from iii_resilience.core.classifiers.registered_exceptions import ExceptionRules, Verdicts
from iii_resilience.core.codes.model import Category
from iii_resilience.core.failure import Failure

# What `exceptions` reads from an instance beside its text and causes.
_READ = frozenset({"code", "message", "function_id", "stacktrace"})
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that is not built in
_DYNAMIC = ("__getattr__", "__getattribute__", "__dict__")
_PLAIN_STR = BaseException.__str__
_OS_STR = OSError.__str__
_TRANSIENT = Category.TRANSIENT
_new = object.__new__


def looked_up(
    error: BaseException,
    fields: dict[str, Any],
    function_id: str | None,
    rules: ExceptionRules | None,
) -> Failure | None:
    """The failure of an exception that says no more than its class, whose verdict is known.

    Args:
        error: The exception.
        fields: Its ``__dict__``.
        function_id: The function that was called, or None.
        rules: What a decorator says of exception classes, or None.

    Returns:
        None where the failure has to be computed.
    """
    kind = type(error)
    found = registered_exceptions.verdicts(rules).kept.get(id(kind))
    if (
        found is None
        or found[0]() is not kind
        or error.__cause__ is not None
        or (fields and not _READ.isdisjoint(fields))
    ):
        return None
    ready = found[1]
    if (
        error.__context__ is not None
        and ready["category"] is _TRANSIENT
        and not error.__suppress_context__
    ):
        return None
    args, shows = error.args, kind.__str__
    if (
        len(args) == 1
        and args[0].__class__ is str
        and (shows is _PLAIN_STR or (shows is _OS_STR and getattr(error, "filename", "") is None))
    ):
        text = args[0]  # as `str()` of it, which takes twice as long
    else:
        text = text_of(error)
    if telling(text):
        return None
    failure = _new(Failure)
    stamped = failure.__dict__
    stamped.update(ready)
    stamped["message"] = text
    stamped["function_id"] = function_id
    return failure


def learn(
    known: Verdicts, error: BaseException, failure: Failure, rules: ExceptionRules | None
) -> None:
    """Keep a verdict, if it is one about the exception's class.

    Args:
        known: Where it is kept: `registered_exceptions.verdicts` from before it was computed.
        error: The exception.
        failure: What was computed for it, its causes left aside.
        rules: As for `looked_up`.
    """
    kind = type(error)
    if not (
        telling(text_of(error))
        or any(hasattr(kind, name) for name in _READ)
        or not _READ.isdisjoint(error.__dict__)
        or issubclass(kind, BaseExceptionGroup)
        or any(_dynamic(base) or base.__name__ == "ValidationError" for base in kind.__mro__)
        or not registered_exceptions.by_class_alone(kind, rules)
    ):
        known.keep(kind, dict(vars(failure)))


def _dynamic(kind: type) -> bool:
    return bool(kind.__flags__ & _HEAP_TYPE) and any(name in vars(kind) for name in _DYNAMIC)

"""Classifies exceptions without a code by their class and their text.

These are the SDK's own before it sends anything, those of websockets and the standard library, and
mistakes of the program (docs/engine-notes.md, 6). Knows nothing of codes' messages or of causes
behind an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from iii_resilience.core.classifiers.message_cause import guard
from iii_resilience.core.classifiers.text_patterns import LIMIT
from iii_resilience.core.codes.lookup import III
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.failure import Failure

_FRAMES = 64  # frames of a traceback that are looked at
_TOO_BIG = 1009  # the close code of a message that is too big (RFC 6455, section 7.4.1)

SHUTTING_DOWN = "iii is shutting down"
LEGACY_WORDS = (SHUTTING_DOWN, "Invocation of", "invocation timed out")
"""Beginnings of the texts that SDK ≤ 0.11.2 raises without a code, in plain exceptions."""

BUGS = (
    TypeError,
    LookupError,
    AttributeError,
    NameError,
    ArithmeticError,
    AssertionError,
    ImportError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    UnicodeError,
)
"""Mistakes in the program that made the call; never transient, whatever caused them."""


def attribute(error: object, name: str) -> object:
    """An attribute, or None where there is none or reading it raises.

    Args:
        error: The exception, or one of its parts.
        name: The attribute's name.
    """
    try:
        return getattr(error, name, None)
    except Exception:
        return None


_BUILT_IN_STR = (BaseException.__str__, KeyError.__str__, OSError.__str__)


def text_of(error: BaseException) -> str:
    """What ``str()`` gives, or an empty text where that raises.

    Args:
        error: The exception. Of one with a very long argument that argument, because ``str()``
            would copy it.
    """
    try:
        if type(error).__str__ in _BUILT_IN_STR:
            for arg in error.args[:4]:
                if isinstance(arg, str) and len(arg) > LIMIT:
                    return arg
        return str(error)
    except Exception:
        return ""


def frames(traceback: TracebackType | None) -> Iterator[str]:
    """The functions of the SDK an exception came through, outermost first.

    Args:
        traceback: The exception's traceback.
    """
    for _ in range(_FRAMES):
        if traceback is None:
            return
        frame = traceback.tb_frame
        module = str(frame.f_globals.get("__name__", ""))
        if module == "iii" or module.startswith("iii."):
            yield frame.f_code.co_name
        traceback = traceback.tb_next


def by_class(
    error: BaseException,
    category: Category,
    execution: Execution,
    remedy: str,
    *,
    known: bool = True,
    origin: str = "local",
) -> Failure:
    """A failure whose code is the exception's class name.

    Args:
        error: The exception.
        category: Its category.
        execution: Whether the called function may have run.
        remedy: What to do about it.
        known: Whether the class is one of the families this library knows.
        origin: The source of the code.
    """
    return Failure(
        type(error).__name__[:128],
        category,
        execution,
        message=text_of(error),
        known=known,
        remedy=remedy,
        origin=origin,
    )


def closed(error: BaseException) -> Failure:
    """The failure of websockets' ConnectionClosed, which escapes from ``trigger``.

    It stands for a send that was blocked when the connection went away.

    Args:
        error: The exception.
    """
    codes = {getattr(attribute(error, side), "code", None) for side in ("rcvd", "sent")}
    if _TOO_BIG in codes:
        return by_class(
            error,
            Category.PAYLOAD,
            Execution.MAYBE_EXECUTED,
            III["payload_too_large"].remedy,
            origin="sdk",
        )
    return by_class(
        error,
        Category.TRANSIENT,
        Execution.MAYBE_EXECUTED,
        "repeat the call only if it is idempotent; a payload above 1 MiB may be the cause",
        origin="sdk",
    )


_CONNECTION_TO = ("Connection to ws://", "Connection to wss://")

# The second at the interpreter's end, from Python 3.12 on.
_NO_THREAD = ("can't start new thread", "can't create new thread at interpreter shutdown")


def no_thread(error: BaseException) -> bool:
    """Whether an error says that no thread could be started, which passes."""
    return isinstance(error, RuntimeError) and text_of(error).startswith(_NO_THREAD)


def standard(error: BaseException, names: list[str], message: str) -> Failure | None:
    """The failure of the SDK's own failed connection, or of a cancelled future, or None.

    Args:
        error: The exception.
        names: The names of its class and of the classes it inherits from.
        message: Its text.
    """
    if isinstance(error, ConnectionError) and message.startswith(_CONNECTION_TO):
        never = message.endswith((" failed", " failed after max retries"))
        return by_class(
            error,
            Category.TRANSIENT,
            Execution.NOT_EXECUTED if never else Execution.MAYBE_EXECUTED,
            "check that the engine is up and can be reached",
        )
    if no_thread(error):
        return by_class(
            error,
            Category.TRANSIENT,
            Execution.MAYBE_EXECUTED,
            "raise the limit of threads (ulimit -u, pids.max), or handle fewer calls at once",
        )
    if "CancelledError" in names:
        return by_class(
            error,
            Category.PERMANENT,
            Execution.MAYBE_EXECUTED,
            "treat it as failed work: its handler was cancelled, and the caller decides whether "
            "to call again",
        )
    return None


# What the SDK raises itself before it sends anything (docs/engine-notes.md, 6): beginnings of its
# texts, by class.
_BEFORE: tuple[tuple[type[Exception], tuple[str, ...], Category], ...] = (
    (TypeError, ("keys must be str, int",), Category.PAYLOAD),
    (
        ValueError,
        (
            "Circular reference detected",
            "Out of range float",
            "namespace is empty",
            "dispatch must be ",
        ),
        Category.PAYLOAD,
    ),
    (RuntimeError, ("Cannot call sync SDK methods",), Category.PERMANENT),
)
_NOT_JSON = "is not JSON serializable"
_KEYS = ("'function_id'", "'queue'")


def _refused_before(error: BaseException, text: str) -> Category | None:
    """The category of what the SDK's own checks raise, by class and words."""
    for kind, words, category in _BEFORE:
        if isinstance(error, kind) and text.startswith(words):
            return category
    if (
        (isinstance(error, TypeError) and text.endswith(_NOT_JSON))
        or (isinstance(error, KeyError) and text in _KEYS)
        or (isinstance(error, ValueError) and guard(text) is not None)
    ):
        return Category.PAYLOAD
    return None


_TELLING = (
    "{",
    *LEGACY_WORDS,
    *_CONNECTION_TO,
    *_NO_THREAD,
    *_KEYS,
    *(word for _, words, _ in _BEFORE for word in words),
)


def telling(text: str) -> bool:
    """Whether a text may say more than the class of its exception does.

    Args:
        text: The exception's text.

    Returns:
        False only where nothing in this package reads anything in it.
    """
    return (
        len(text) > LIMIT  # first: the rest takes time with the length
        or text.startswith(_TELLING)
        or " bytes" in text
        or text.endswith(_NOT_JSON)
    )


def before_sending(error: BaseException, names: list[str], message: str) -> Failure | None:
    """The failure of what the SDK raises itself before it sends anything, or None.

    Args:
        error: The exception.
        names: The names of its class and of the classes it inherits from.
        message: Its text.
    """
    text = message[-LIMIT:] if len(message) > LIMIT else message
    category = _refused_before(error, text)
    if "ValidationError" in names and "TriggerRequest" in message[:200]:
        category = Category.PAYLOAD
    if category is None:
        return None
    # The same words come out of a user's own json.dumps or dict, after whatever ran before it.
    here = error.__traceback__ is None or any(frames(error.__traceback__))
    if here:
        remedy = "fix the call: the SDK refused it before it sent anything"
    elif category is Category.PAYLOAD and not isinstance(error, KeyError):
        remedy = "fix the value: it cannot be sent as it is"
    else:
        return None
    failure = by_class(
        error,
        category,
        Execution.NOT_EXECUTED if here else Execution.MAYBE_EXECUTED,
        remedy,
        known=here,
        origin="sdk" if here else "local",
    )
    if (found := guard(text)) is not None:
        return failure.replace(
            remedy=found.remedy,
            inner=found,
            payload_bytes=found.payload_bytes,
            limit_bytes=found.limit_bytes,
        )
    return failure

"""What an exception of a known library says beyond its class: a status, a code, a cause.

Reads attributes only, and imports none of the libraries. Each function takes the exception and
the failure of its row, and returns the failure that the details make of it; None where they say
that the class stands for nothing known. Knows nothing of which class has which row.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping

from iii_resilience.core.classifiers.builtin_exceptions import attribute, text_of
from iii_resilience.core.codes.engine_codes import http_status
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.codes.shorthand import ME, NE, A, N, P, T, X
from iii_resilience.core.failure import Failure
from iii_resilience.core.system_clock import LONGEST_SECONDS

Detail = Callable[[BaseException, Failure], Failure | None]

_FRAMES = 64  # of a traceback that are looked at
_CHAIN = 8  # causes of a library's own exception that are looked at
_LONGEST_HEADER = 64  # characters; a date has 29
TEXT = 512
"""Characters of a text that are looked at."""

_AGAIN = "repeat the call only if it is idempotent"
_SLOWER = "slow down: the other side is overloaded or limits its callers"
_ACCESS = "fix the credentials or the rights that the call is made with"
_MISSING = "check the address or name: what is called does not exist there"
_REQUEST = "fix the request: it will be rejected again as it is"
_LOOK = "look at the other side's answer: a repeat will not change it"
_CERTIFICATE = "fix the certificate, or what it is verified against: a repeat fails alike"

_REMEDIES = {T: _AGAIN, A: _ACCESS, N: _MISSING, P: _REQUEST, X: _LOOK}


def of_category(
    failure: Failure, category: Category, execution: Execution, *, throttled: bool = False
) -> Failure:
    """A failure with another meaning, and the remedy that goes with it.

    Args:
        failure: The failure of the exception's row.
        category: Its category instead.
        execution: Its execution instead.
        throttled: Whether the other side asks to slow down.
    """
    return failure.replace(
        category=category,
        execution=execution,
        throttled=throttled,
        remedy=_SLOWER if throttled else _REMEDIES[category],
    )


# HTTP


def status(error: BaseException, failure: Failure) -> Failure | None:
    """An HTTP status in a response: ``response.status_code``, ``status`` or ``code``."""
    response = attribute(error, "response")
    found, headers = attribute(response, "status_code"), attribute(response, "headers")
    if found is None:
        found = attribute(error, "status")
    if found is None:
        found = attribute(error, "code")
    if not isinstance(found, int) or isinstance(found, bool):
        return None
    return of_status(found, headers or attribute(error, "headers"), failure)


def of_status(code: int, headers: object, failure: Failure) -> Failure:
    """The failure of an HTTP status.

    Args:
        code: The status.
        headers: Anything with ``get``; ``Retry-After`` and ``Date`` are read.
        failure: The failure of the exception's row.
    """
    row = http_status(code)
    return of_category(failure, row.category, row.execution, throttled=row.throttled).replace(
        code=f"HTTP {code}"[:16], retry_after=retry_after(headers)
    )


def retry_after(headers: object) -> float | None:
    """The pushback in ``Retry-After`` (RFC 9110, section 10.2.3), in seconds, or None.

    A date counts from the answer's own ``Date``, where it has one: that needs no clock alike.

    Args:
        headers: Anything with ``get``.
    """
    value = _header(headers, "Retry-After")
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_SECONDS)
    until = _date(value)
    if until is None:
        return None
    sent = _header(headers, "Date")
    now = None if sent is None else _date(sent)
    return min(max(0.0, until - (time.time() if now is None else now)), LONGEST_SECONDS)


def _header(headers: object, name: str) -> str | None:
    get = attribute(headers, "get") if headers is not None else None
    if not callable(get):
        return None
    for spelt in (name, name.lower()):
        try:
            value = get(spelt)
        except Exception:
            return None
        if isinstance(value, str):
            return value.strip() if len(value) <= _LONGEST_HEADER else None
    return None


def _date(value: str) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - few answers have a date

    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


# Connections


def connecting(error: BaseException, failure: Failure) -> Failure:
    """A connection that was not made; a certificate that is not trusted stays so."""
    for cause in _chain(error):
        if any(kind.__name__ == "SSLCertVerificationError" for kind in type(cause).__mro__):
            return untrusted(error, failure)
    return failure


def untrusted(error: BaseException, failure: Failure) -> Failure:  # noqa: ARG001 - a `Detail`
    """A certificate that is not trusted."""
    return failure.replace(category=X, execution=NE, remedy=_CERTIFICATE)


def tls(error: BaseException, failure: Failure) -> Failure:
    """An error of TLS: a certificate that is not trusted, or a connection that broke off."""
    for one in (error, *_chain(error)):
        names = {kind.__name__ for kind in type(one).__mro__}
        if "SSLCertVerificationError" in names:
            return untrusted(error, failure)
        if names & {"SSLEOFError", "SSLZeroReturnError"}:
            return of_category(failure, T, ME)
    text = text_of(error)[:TEXT]
    return (
        of_category(failure, T, ME) if "EOF occurred in violation of protocol" in text else failure
    )


def _chain(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(causes) < _CHAIN:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


_NEVER_REACHED = "ECONNREFUSED EHOSTUNREACH EHOSTDOWN ENETUNREACH ENETDOWN EADDRNOTAVAIL EADDRINUSE"
_MAY_END = (
    "ECONNRESET ECONNABORTED EPIPE ESHUTDOWN ENOTCONN ETIMEDOUT ENETRESET EAGAIN EWOULDBLOCK "
    "EINPROGRESS EINTR EBUSY ETXTBSY EDEADLK ENOLCK ESTALE EREMOTEIO"
)
_TOO_MANY = "EMFILE ENFILE ENOBUFS ENOMEM"
_FILES = {
    A: "EACCES EPERM",
    N: "ENOENT ENODEV ENXIO",
    P: "ENAMETOOLONG EMSGSIZE E2BIG",
    X: "ENOSPC EDQUOT EROFS EFBIG EEXIST ENOTDIR EISDIR ENOTEMPTY EIO ENOEXEC ELOOP EXDEV EBADF "
    "EINVAL",
}


def _numbers(names: str) -> list[int]:
    return [number for name in names.split() if (number := getattr(errno, name, None)) is not None]


_ERRNO: dict[int, tuple[Category, Execution, bool]] = {
    **{number: (kind, ME, False) for kind, names in _FILES.items() for number in _numbers(names)},
    **dict.fromkeys(_numbers(_TOO_MANY), (T, ME, True)),
    **dict.fromkeys(_numbers(_MAY_END), (T, ME, False)),
    **dict.fromkeys(_numbers(_NEVER_REACHED), (T, NE, False)),
}


def by_errno(error: BaseException, failure: Failure) -> Failure | None:
    """An OSError's ``errno``; one without stands for what its class says."""
    number = attribute(error, "errno")
    if number == errno.ENOENT and _connected_to_path(error):
        return of_category(failure, T, NE)
    known = _ERRNO.get(number) if isinstance(number, int) else None
    if known is None:
        return None
    category, execution, throttled = known
    return of_category(failure, category, execution, throttled=throttled)


def _connected_to_path(error: BaseException) -> bool:
    """Whether asyncio, or uvloop, looked for a server's socket: it is there while the server is."""
    traceback = error.__traceback__
    for _ in range(_FRAMES):
        if traceback is None:
            return False
        if traceback.tb_frame.f_code.co_name.endswith("create_unix_connection"):
            return True
        traceback = traceback.tb_next
    return False


# Name resolution (getaddrinfo): what a repeat cannot change.
_BAD_ARGUMENTS = frozenset({"EAI_BADFLAGS", "EAI_FAMILY", "EAI_SERVICE", "EAI_SOCKTYPE"})


def name_resolution(error: BaseException, failure: Failure) -> Failure:
    """A host name that did not resolve: its server may not be there yet."""
    import socket  # noqa: PLC0415 - the code that raised it has loaded it

    number = attribute(error, "errno")
    bad = {getattr(socket, name, None) for name in _BAD_ARGUMENTS}
    return of_category(failure, P, NE) if isinstance(number, int) and number in bad else failure


# AWS (botocore/data/_retry.json and the services' common errors)

_AWS: dict[str, tuple[Category, Execution, bool]] = {
    **dict.fromkeys(
        [
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "RequestThrottledException",
            "TooManyRequestsException",
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "BandwidthLimitExceeded",
            "LimitExceededException",
            "RequestThrottled",
            "SlowDown",
            "EC2ThrottledException",
        ],
        (T, NE, True),
    ),
    **dict.fromkeys(
        [
            "TransactionInProgressException",
            "PriorRequestNotComplete",
            "RequestTimeout",
            "RequestTimeoutException",
            "InternalError",
            "InternalFailure",
            "InternalServerError",
            "ServiceUnavailable",
            "ServiceUnavailableException",
        ],
        (T, ME, False),
    ),
    **dict.fromkeys(
        [
            "AccessDenied",
            "AccessDeniedException",
            "UnauthorizedOperation",
            "InvalidClientTokenId",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "ExpiredTokenException",
            "UnrecognizedClientException",
            "AuthFailure",
            "OptInRequired",
        ],
        (A, NE, False),
    ),
    **dict.fromkeys(
        ["NoSuchKey", "NoSuchBucket", "NotFound", "ResourceNotFoundException", "NoSuchEntity"],
        (N, ME, False),
    ),
    **dict.fromkeys(
        ["ValidationException", "ValidationError", "InvalidParameterValue", "MissingParameter"],
        (P, NE, False),
    ),
}


def of_aws_code(code: str, failure: Failure) -> Failure | None:
    """What a service's error code says; None for one that is not known.

    Args:
        code: As the answer has it, ``ThrottlingException``.
        failure: What its class alone says.
    """
    if (known := _AWS.get(code)) is None:
        return None
    category, execution, throttled = known
    failure = of_category(failure, category, execution, throttled=throttled)
    return failure.replace(remedy=f"{failure.remedy} ({code})")


def aws(error: BaseException, failure: Failure) -> Failure | None:
    """A service's error code, else the HTTP status of its answer."""
    response = attribute(error, "response")
    if not isinstance(response, Mapping):
        return None
    about, answer = response.get("Error"), response.get("ResponseMetadata")
    code = about.get("Code") if isinstance(about, Mapping) else None
    answer = answer if isinstance(answer, Mapping) else {}
    known = of_aws_code(code, failure) if isinstance(code, str) else None
    if known is not None:
        return known.replace(retry_after=retry_after(answer.get("HTTPHeaders")))
    found = answer.get("HTTPStatusCode")
    if not isinstance(found, int):
        return failure
    own = failure.code
    return of_status(found, answer.get("HTTPHeaders"), failure).replace(code=own)


# Redis: which phase of a call a lost connection ended (redis-py, `connect`).


def redis_connecting(error: BaseException, failure: Failure) -> Failure:
    """A connection that was never made, by redis-py's own words for it."""
    text = text_of(error)[:TEXT]
    refused = any(isinstance(cause, ConnectionRefusedError) for cause in _chain(error))
    if refused or text.startswith("Timeout connecting to") or " connecting to " in text:
        return connecting(error, failure.replace(execution=NE))
    return failure


# Where a library keeps the exception that its own stands for.


def reason(error: BaseException) -> object:
    """``reason``, as in urllib3's MaxRetryError and urllib's URLError."""
    return attribute(error, "reason")


def argument(error: BaseException) -> object:
    """The first argument, as in requests' exceptions around urllib3's."""
    return error.args[0] if error.args else None


def orig(error: BaseException) -> object:
    """``orig``, as in SQLAlchemy's exceptions around a driver's."""
    return attribute(error, "orig")


def raised_from(error: BaseException) -> object:
    """``__cause__``, as in what SQLAlchemy raises for drivers of asyncio."""
    return error.__cause__

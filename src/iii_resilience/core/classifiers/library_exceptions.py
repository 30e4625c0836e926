"""The exceptions of libraries that functions call: a table, one row a class.

Imports none of them: a class is found by its qualified name, the public one and that of the
module that defines it, along the exception's MRO. What an exception says beyond its class stands
in `library_details`, `database_details` and `grpc_details`. Sources are each library's own
documentation of its exceptions.

Every failure made here speaks of the inner call, the one that the library made. It never proves
that the function around it did not run (`Failure.proves_unexecuted`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from iii_resilience.core.classifiers import database_details as databases
from iii_resilience.core.classifiers import library_details as details
from iii_resilience.core.classifiers.builtin_exceptions import text_of
from iii_resilience.core.classifiers.grpc_details import grpc_status
from iii_resilience.core.classifiers.library_details import Detail
from iii_resilience.core.codes.lookup import LONGEST_CODE
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.codes.shorthand import EX, ME, NE, A, N, P, T, X
from iii_resilience.core.failure import LIBRARY, Failure

_DEPTH = 4  # exceptions that stand for others

# Remedies.
_REACH = "check that the other side is up and can be reached"
_AGAIN = "repeat the call only if it is idempotent; its answer will never come"
_SLOW = "repeat the call only if it is idempotent; raise the timeout if it is too short"
_POOL = "slow down, or allow the client more connections: all of them are in use"
_BROKEN = "repeat the call only if it is idempotent: its answer broke off"
_REQUEST = "fix the request: it will be rejected again as it is"
_CLIENT = "fix the program: it uses the client in a way that the library refuses"
_ANSWER = "look at the other side's answer: it cannot be read"
_SETUP = "fix the client's configuration"
_TLS = "look at the TLS settings of both sides"
_ACCESS = "fix the credentials or the rights that the call is made with"
_STATUS = "look at the status of the answer"
_CAUSE = "look at the cause that the exception carries"
_MOVED = "repeat it: the data is being moved to, or served by, another server"
_DATABASE = "look at the statement and at the database's own message"


class ExceptionRow(NamedTuple):
    """What is known of one exception class.

    Attributes:
        name: Its qualified public name, which is the failure's code.
        module: The module that defines it.
        category: One of the five categories.
        execution: Whether the inner call may have run.
        remedy: What to do about it, in one clause.
        throttled: Whether it says "slow down".
        detail: What its attributes change, or None.
        cause: The exception that it stands for, or None where there is none.
    """

    name: str
    module: str
    category: Category
    execution: Execution
    remedy: str
    throttled: bool = False
    detail: Detail | None = None
    cause: Callable[[BaseException], object] | None = None


_R = ExceptionRow
_FULL = True  # throttled

_HTTPX = (
    _R("httpx.ConnectError", "httpx", T, NE, _REACH, detail=details.connecting),
    _R("httpx.ConnectTimeout", "httpx", T, NE, _REACH),
    _R("httpx.PoolTimeout", "httpx", T, NE, _POOL, _FULL),
    _R("httpx.ReadTimeout", "httpx", T, ME, _SLOW),
    _R("httpx.WriteTimeout", "httpx", T, ME, _SLOW),
    _R("httpx.TimeoutException", "httpx", T, ME, _SLOW),
    _R("httpx.ReadError", "httpx", T, ME, _AGAIN, detail=details.tls),
    _R("httpx.WriteError", "httpx", T, ME, _AGAIN),
    _R("httpx.CloseError", "httpx", T, ME, _AGAIN),
    _R("httpx.NetworkError", "httpx", T, ME, _AGAIN),
    _R("httpx.RemoteProtocolError", "httpx", T, ME, _AGAIN),
    _R("httpx.ProxyError", "httpx", T, ME, _REACH),
    _R("httpx.LocalProtocolError", "httpx", P, NE, _REQUEST),
    _R("httpx.UnsupportedProtocol", "httpx", P, NE, _REQUEST),
    _R("httpx.InvalidURL", "httpx", P, NE, _REQUEST),
    _R("httpx.DecodingError", "httpx", X, EX, _ANSWER),
    _R("httpx.TooManyRedirects", "httpx", X, ME, _ANSWER),
    _R("httpx.HTTPStatusError", "httpx", X, EX, _STATUS, detail=details.status),
    _R("httpx.StreamError", "httpx", X, ME, _CLIENT),
    _R("httpcore.ConnectError", "httpcore", T, NE, _REACH, detail=details.connecting),
    _R("httpcore.ConnectTimeout", "httpcore", T, NE, _REACH),
    _R("httpcore.PoolTimeout", "httpcore", T, NE, _POOL, _FULL),
    _R("httpcore.TimeoutException", "httpcore", T, ME, _SLOW),
    _R("httpcore.NetworkError", "httpcore", T, ME, _AGAIN),
    _R("httpcore.RemoteProtocolError", "httpcore", T, ME, _AGAIN),
    _R("httpcore.ProxyError", "httpcore", T, ME, _REACH),
    _R("httpcore.LocalProtocolError", "httpcore", P, NE, _REQUEST),
    _R("httpcore.UnsupportedProtocol", "httpcore", P, NE, _REQUEST),
)

_RQ = "requests.exceptions"
_REQUESTS = (
    _R("requests.ConnectTimeout", _RQ, T, NE, _REACH),
    _R("requests.ReadTimeout", _RQ, T, ME, _SLOW),
    _R("requests.Timeout", _RQ, T, ME, _SLOW),
    _R("requests.exceptions.SSLError", _RQ, X, NE, _TLS, detail=details.tls),
    _R("requests.exceptions.ProxyError", _RQ, T, ME, _REACH, cause=details.argument),
    _R("requests.ConnectionError", _RQ, T, ME, _AGAIN, cause=details.argument),
    _R("requests.exceptions.ChunkedEncodingError", _RQ, T, EX, _BROKEN),
    _R("requests.exceptions.RetryError", _RQ, T, ME, _AGAIN),
    _R("requests.exceptions.ContentDecodingError", _RQ, X, EX, _ANSWER),
    _R("requests.JSONDecodeError", _RQ, X, EX, _ANSWER),
    _R("requests.TooManyRedirects", _RQ, X, ME, _ANSWER),
    _R("requests.HTTPError", _RQ, X, EX, _STATUS, detail=details.status),
    _R("requests.exceptions.InvalidURL", _RQ, P, NE, _REQUEST),
    _R("requests.exceptions.InvalidSchema", _RQ, P, NE, _REQUEST),
    _R("requests.exceptions.MissingSchema", _RQ, P, NE, _REQUEST),
    _R("requests.exceptions.InvalidHeader", _RQ, P, NE, _REQUEST),
    _R("requests.exceptions.InvalidJSONError", _RQ, P, NE, _REQUEST),
    _R("requests.URLRequired", _RQ, P, NE, _REQUEST),
    _R("requests.exceptions.StreamConsumedError", _RQ, X, ME, _CLIENT),
    _R("requests.exceptions.UnrewindableBodyError", _RQ, X, ME, _CLIENT),
)

_U3 = "urllib3.exceptions"
_URLLIB3 = (
    _R("urllib3.exceptions.MaxRetryError", _U3, T, ME, _AGAIN, cause=details.reason),
    _R("urllib3.exceptions.NewConnectionError", _U3, T, NE, _REACH),
    _R("urllib3.exceptions.ConnectTimeoutError", _U3, T, NE, _REACH),
    _R("urllib3.exceptions.ReadTimeoutError", _U3, T, ME, _SLOW),
    _R("urllib3.exceptions.TimeoutError", _U3, T, ME, _SLOW),
    _R("urllib3.exceptions.EmptyPoolError", _U3, T, NE, _POOL, _FULL),
    _R("urllib3.exceptions.ClosedPoolError", _U3, X, NE, _CLIENT),
    _R("urllib3.exceptions.IncompleteRead", _U3, T, EX, _BROKEN),
    _R("urllib3.exceptions.InvalidChunkLength", _U3, T, EX, _BROKEN),
    _R("urllib3.exceptions.ProtocolError", _U3, T, ME, _AGAIN),
    _R("urllib3.exceptions.ProxyError", _U3, T, ME, _REACH),
    _R("urllib3.exceptions.SSLError", _U3, X, NE, _TLS, detail=details.tls),
    _R("urllib3.exceptions.ResponseError", _U3, T, ME, _AGAIN),
    _R("urllib3.exceptions.DecodeError", _U3, X, EX, _ANSWER),
    _R("urllib3.exceptions.LocationValueError", _U3, P, NE, _REQUEST),
)

_AIO = "aiohttp.client_exceptions"
_AIOHTTP = (
    _R("aiohttp.ClientConnectorCertificateError", _AIO, X, NE, _TLS),
    _R("aiohttp.ClientConnectorSSLError", _AIO, X, NE, _TLS, detail=details.tls),
    _R("aiohttp.ServerFingerprintMismatch", _AIO, X, NE, _TLS),
    _R("aiohttp.ClientConnectorError", _AIO, T, NE, _REACH, detail=details.connecting),
    _R("aiohttp.ConnectionTimeoutError", _AIO, T, NE, _REACH),
    _R("aiohttp.ServerTimeoutError", _AIO, T, ME, _SLOW),
    _R("aiohttp.ServerDisconnectedError", _AIO, T, ME, _AGAIN),
    _R("aiohttp.ClientOSError", _AIO, T, ME, _AGAIN),
    _R("aiohttp.ClientConnectionError", _AIO, T, ME, _AGAIN),
    _R("aiohttp.ClientPayloadError", _AIO, T, EX, _BROKEN),
    _R("aiohttp.ContentTypeError", _AIO, X, EX, _ANSWER),
    _R("aiohttp.TooManyRedirects", _AIO, X, ME, _ANSWER),
    _R("aiohttp.ClientResponseError", _AIO, X, EX, _STATUS, detail=details.status),
    _R("aiohttp.InvalidURL", _AIO, P, NE, _REQUEST),
    _R("aiohttp.NonHttpUrlClientError", _AIO, P, NE, _REQUEST),
)

_GRPC = (
    _R("grpc.RpcError", "grpc", X, ME, _STATUS, detail=grpc_status),
    _R("grpc.FutureTimeoutError", "grpc", T, ME, _SLOW),
)

_BC = "botocore.exceptions"
_BOTOCORE = (
    _R("botocore.exceptions.ClientError", _BC, X, EX, _STATUS, detail=details.aws),
    _R("botocore.exceptions.EndpointConnectionError", _BC, T, NE, _REACH),
    _R("botocore.exceptions.ConnectTimeoutError", _BC, T, NE, _REACH),
    _R("botocore.exceptions.ProxyConnectionError", _BC, T, NE, _REACH),
    _R("botocore.exceptions.SSLError", _BC, X, NE, _TLS, detail=details.tls),
    _R("botocore.exceptions.ReadTimeoutError", _BC, T, ME, _SLOW),
    _R("botocore.exceptions.ConnectionClosedError", _BC, T, ME, _AGAIN),
    _R("botocore.exceptions.ConnectionError", _BC, T, ME, _AGAIN),
    _R("botocore.exceptions.HTTPClientError", _BC, T, ME, _AGAIN),
    _R("botocore.exceptions.ResponseStreamingError", _BC, T, EX, _BROKEN),
    _R("botocore.exceptions.IncompleteReadError", _BC, T, EX, _BROKEN),
    _R("botocore.exceptions.ChecksumError", _BC, T, EX, _BROKEN),
    _R("botocore.exceptions.CapacityNotAvailableError", _BC, T, NE, _POOL, _FULL),
    _R("botocore.exceptions.NoCredentialsError", _BC, A, NE, _ACCESS),
    _R("botocore.exceptions.PartialCredentialsError", _BC, A, NE, _ACCESS),
    _R("botocore.exceptions.CredentialRetrievalError", _BC, A, NE, _ACCESS),
    _R("botocore.exceptions.TokenRetrievalError", _BC, A, NE, _ACCESS),
    _R("botocore.exceptions.SSOTokenLoadError", _BC, A, NE, _ACCESS),
    _R("botocore.exceptions.UnauthorizedSSOTokenError", _BC, A, NE, _ACCESS),
    _R("botocore.exceptions.ParamValidationError", _BC, P, NE, _REQUEST),
    _R("botocore.exceptions.NoRegionError", _BC, X, NE, _SETUP),
)

_RX = "redis.exceptions"
_REDIS = (
    _R("redis.AuthenticationError", _RX, A, NE, _ACCESS),
    _R("redis.exceptions.AuthorizationError", _RX, A, NE, _ACCESS),
    _R("redis.exceptions.NoPermissionError", _RX, A, NE, _ACCESS),
    _R("redis.BusyLoadingError", _RX, T, NE, _REACH),
    _R("redis.exceptions.MaxConnectionsError", _RX, T, NE, _POOL, _FULL),
    _R("redis.ConnectionError", _RX, T, ME, _AGAIN, detail=details.redis_connecting),
    _R("redis.TimeoutError", _RX, T, ME, _SLOW, detail=details.redis_connecting),
    _R("redis.ReadOnlyError", _RX, T, NE, _MOVED),
    _R("redis.exceptions.AskError", _RX, T, NE, _MOVED),
    _R("redis.exceptions.TryAgainError", _RX, T, NE, _MOVED),
    _R("redis.exceptions.ClusterDownError", _RX, T, NE, _MOVED),
    _R("redis.exceptions.MasterDownError", _RX, T, NE, _MOVED),
    _R("redis.exceptions.SlotNotCoveredError", _RX, T, NE, _MOVED),
    _R("redis.WatchError", _RX, T, NE, "repeat the transaction: what it watches has changed"),
    _R("redis.InvalidResponse", _RX, T, ME, _AGAIN),
    _R("redis.OutOfMemoryError", _RX, T, NE, "slow down: the server has no memory left", _FULL),
    _R("redis.DataError", _RX, P, NE, _REQUEST),
    _R("redis.exceptions.ResponseError", _RX, X, NE, _CAUSE),
    _R("redis.exceptions.LockError", _RX, X, ME, _CLIENT),
)

_SA = "sqlalchemy.exc"
_OF_STATE = databases.sqlstate
_DATABASES = (
    _R("psycopg.OperationalError", "psycopg", T, ME, _AGAIN, detail=databases.postgres),
    _R("psycopg.InterfaceError", "psycopg", X, NE, _CLIENT, detail=_OF_STATE),
    _R("psycopg.Error", "psycopg", X, ME, _DATABASE, detail=_OF_STATE),
    _R("psycopg2.OperationalError", "psycopg2", T, ME, _AGAIN, detail=databases.postgres),
    _R("psycopg2.InterfaceError", "psycopg2", X, NE, _CLIENT, detail=databases.closed),
    _R("psycopg2.pool.PoolError", "psycopg2.pool", X, NE, _CLIENT, detail=databases.psycopg2_pool),
    _R("psycopg2.Error", "psycopg2", X, ME, _DATABASE, detail=_OF_STATE),
    _R("psycopg_pool.PoolTimeout", "psycopg_pool.errors", T, NE, _POOL, _FULL),
    _R("psycopg_pool.TooManyRequests", "psycopg_pool.errors", T, NE, _POOL, _FULL),
    _R("asyncpg.PostgresError", "asyncpg.exceptions._base", X, ME, _DATABASE, detail=_OF_STATE),
    _R(
        "asyncpg.InterfaceError",
        "asyncpg.exceptions._base",
        X,
        NE,
        _CLIENT,
        detail=databases.closed,
    ),
    _R("sqlalchemy.exc.TimeoutError", _SA, T, NE, _POOL, _FULL),
    _R("sqlalchemy.exc.DisconnectionError", _SA, T, ME, _AGAIN),
    _R("sqlalchemy.exc.NoResultFound", _SA, N, EX, _ANSWER),
    _R(
        "sqlalchemy.exc.DBAPIError",
        _SA,
        X,
        ME,
        _DATABASE,
        detail=databases.invalidated,
        cause=details.orig,
    ),
    # As SQLAlchemy prints it: it stands between a DBAPIError and asyncpg's own exception.
    _R(
        "sqlalchemy.dialects.postgresql.asyncpg.Error",
        "sqlalchemy.dialects.postgresql.asyncpg.AsyncAdapt_asyncpg_dbapi",
        X,
        ME,
        _DATABASE,
        cause=details.raised_from,
    ),
    _R("sqlalchemy.exc.StatementError", _SA, X, ME, _DATABASE, cause=details.orig),
    _R("sqlalchemy.exc.SQLAlchemyError", _SA, X, ME, _CLIENT),
    _R("sqlite3.OperationalError", "sqlite3", X, ME, _DATABASE, detail=databases.sqlite),
)

_B = "builtins"
_STANDARD = (
    _R("urllib.error.HTTPError", "urllib.error", X, EX, _STATUS, detail=details.status),
    _R("urllib.error.ContentTooShortError", "urllib.error", T, EX, _BROKEN),
    _R("urllib.error.URLError", "urllib.error", P, NE, _REQUEST, cause=details.reason),
    _R("http.client.RemoteDisconnected", "http.client", T, ME, _AGAIN),
    _R("http.client.IncompleteRead", "http.client", T, EX, _BROKEN),
    _R("http.client.BadStatusLine", "http.client", T, ME, _AGAIN),
    _R("http.client.InvalidURL", "http.client", P, NE, _REQUEST),
    _R("ssl.SSLError", "ssl", X, ME, _TLS, detail=details.tls),
    _R("socket.gaierror", "socket", T, NE, _REACH, detail=details.name_resolution),
    _R("TimeoutError", _B, T, ME, _SLOW),
    _R("ConnectionRefusedError", _B, T, NE, _REACH),
    _R("ConnectionError", _B, T, ME, _REACH),
    _R("OSError", _B, X, ME, _CAUSE, detail=details.by_errno),
)

ROWS = (
    *_HTTPX,
    *_REQUESTS,
    *_URLLIB3,
    *_AIOHTTP,
    *_GRPC,
    *_BOTOCORE,
    *_REDIS,
    *_DATABASES,
    *_STANDARD,
)
"""Every row, a library after the other."""


def _by_name() -> Iterator[tuple[str, ExceptionRow]]:
    for row in ROWS:
        yield row.name, row
        yield f"{row.module}.{row.name.rpartition('.')[2]}", row


_ROWS = dict(_by_name())


def names_of(kind: type) -> tuple[str, ...]:
    """The qualified names that a class is known under, its failure's code first.

    Args:
        kind: A class of exceptions.
    """
    own = f"{kind.__module__}.{kind.__qualname__}"
    row = _ROWS.get(own)
    if row is not None and own != row.name:
        return row.name, own
    return (kind.__qualname__, own) if kind.__module__ == _B else (own,)


def from_library(error: BaseException, depth: int = 0) -> Failure | None:
    """The failure of an exception that a known library raised, or None.

    Args:
        error: The exception.
        depth: How many exceptions stood for this one.
    """
    for kind in type(error).__mro__:
        row = _ROWS.get(f"{kind.__module__}.{kind.__qualname__}")
        if row is not None and (failure := _of_row(row, error, depth)) is not None:
            return failure
    return None


def reads_instances(kind: type) -> bool:
    """Whether the first row of a class reads more than the class.

    Args:
        kind: A class of exceptions.
    """
    for base in kind.__mro__:
        row = _ROWS.get(f"{base.__module__}.{base.__qualname__}")
        if row is not None:
            return row.detail is not None or row.cause is not None
    return False


def row_of(name: str) -> ExceptionRow | None:
    """The row of a class, or None.

    Args:
        name: Its qualified name, public or not.
    """
    return _ROWS.get(name)


def _of_row(row: ExceptionRow, error: BaseException, depth: int) -> Failure | None:
    failure = Failure(
        _code(row, type(error)),
        row.category,
        row.execution,
        throttled=row.throttled,
        message=text_of(error),
        remedy=row.remedy,
        system="local",
        origin=LIBRARY,
    )
    if row.cause is not None and depth < _DEPTH:
        cause = row.cause(error)
        inner = from_library(cause, depth + 1) if isinstance(cause, BaseException) else None
        if inner is not None:
            failure = failure.replace(
                category=inner.category,
                execution=inner.execution,
                throttled=inner.throttled,
                retry_after=inner.retry_after,
                remedy=inner.remedy,
                inner=inner,
            )
    return failure if row.detail is None else row.detail(error, failure)


def _code(row: ExceptionRow, kind: type) -> str:
    """The class's own name, where it is neither the row's nor private to the library."""
    own = f"{kind.__module__}.{kind.__qualname__}"
    same = own == f"{row.module}.{row.name.rpartition('.')[2]}"
    if same or any(part.startswith("_") for part in own.split(".")):
        return row.name
    return names_of(kind)[0][:LONGEST_CODE]

"""gRPC, botocore, asyncpg and SQLAlchemy: what they raise against real servers on 127.0.0.1."""

from __future__ import annotations

import asyncio
import pkgutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.flaky_http import FlakyServer, closed_port, flaky_server
from support.postgres_wire import refusing_postgres
from support.short_names import EX, ME, NE, A, N, P, T, X

from iii_resilience import Category, Execution, classify
from iii_resilience.core.classifiers.library_exceptions import ROWS, from_library

pytestmark = [
    pytest.mark.long,
    pytest.mark.library,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


LIBRARIES = {"grpc", "botocore", "asyncpg", "sqlalchemy"}
PRINTED = {"sqlalchemy.dialects.postgresql.asyncpg.Error"}  # a name that can only be read


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.module.split(".")[0] in LIBRARIES], ids=lambda r: r.name
)
def test_row_finds_its_class_under_both_names(row: Any) -> None:
    kind = pkgutil.resolve_name(f"{row.module}.{row.name.rpartition('.')[2]}")
    if row.name not in PRINTED:
        assert pkgutil.resolve_name(row.name) is kind
    error = kind.__new__(kind)
    found = from_library(error)
    assert found is None or found.code == row.name


def raised(call: Callable[[], Any]) -> Any:
    with pytest.raises(Exception) as caught:
        call()
    failure = classify(caught.value)
    assert (failure.system, failure.origin, failure.known) == ("local", "library", True)
    return failure


# gRPC


@contextmanager
def grpc_server(answer: Callable[[Any], object]) -> Iterator[int]:
    import grpc

    def handle(request: bytes, context: Any) -> bytes:
        answer(context)
        return b""

    handler = grpc.method_handlers_generic_handler(
        "test.Service", {"Call": grpc.unary_unary_rpc_method_handler(handle)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def call_grpc(port: int, timeout: float = 5) -> Any:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return channel.unary_unary("/test.Service/Call")(b"", timeout=timeout)


async def call_grpc_aio(port: int) -> Any:
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        return await channel.unary_unary("/test.Service/Call")(b"", timeout=5)


GRPC = {
    "UNAVAILABLE": (T, False),
    "RESOURCE_EXHAUSTED": (T, True),
    "ABORTED": (T, False),
    "INTERNAL": (T, False),
    "DEADLINE_EXCEEDED": (T, False),
    "UNAUTHENTICATED": (A, False),
    "PERMISSION_DENIED": (A, False),
    "NOT_FOUND": (N, False),
    "INVALID_ARGUMENT": (P, False),
    "OUT_OF_RANGE": (P, False),
    "UNIMPLEMENTED": (X, False),
    "FAILED_PRECONDITION": (X, False),
    "UNKNOWN": (X, False),
    "DATA_LOSS": (X, False),
}


@pytest.mark.parametrize("status", GRPC)
def test_grpc_statuses(status: str) -> None:
    import grpc

    def answer(context: Any) -> None:
        context.abort(getattr(grpc.StatusCode, status), "words")

    with grpc_server(answer) as port:
        for call in (lambda: call_grpc(port), lambda: asyncio.run(call_grpc_aio(port))):
            failure = raised(call)
            assert (failure.category, failure.throttled) == GRPC[status]
            assert failure.code in {"grpc.RpcError", "grpc.aio.AioRpcError"}
            assert status in failure.remedy


def retry_info(seconds: int, nanos: int) -> bytes:
    """A google.rpc.Status with one google.rpc.RetryInfo, in protobuf's encoding."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    def varint(value: int) -> bytes:
        out = b""
        while value > 0x7F:
            out += bytes([value & 0x7F | 0x80])
            value >>= 7
        return out + bytes([value])

    delay = bytes([1 << 3]) + varint(seconds) + bytes([2 << 3]) + varint(nanos)
    detail = field(1, b"type.googleapis.com/google.rpc.RetryInfo") + field(2, field(1, delay))
    return bytes([1 << 3, 14]) + field(2, b"words") + field(3, detail)


@pytest.mark.parametrize(
    ("key", "value", "category", "seconds"),
    [
        ("grpc-retry-pushback-ms", "1500", T, 1.5),
        ("grpc-retry-pushback-ms", "-1", X, None),
        ("grpc-retry-pushback-ms", "soon", X, None),
        ("grpc-status-details-bin", retry_info(3, 500_000_000), T, 3.5),
        ("grpc-status-details-bin", b"\xff\xff\xff", T, None),
        ("grpc-status-details-bin", b"", T, None),
    ],
)
def test_grpc_pushback(key: str, value: Any, category: Category, seconds: float | None) -> None:
    import grpc

    def answer(context: Any) -> None:
        context.set_trailing_metadata(((key, value),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "words")

    with grpc_server(answer) as port:
        failure = raised(lambda: call_grpc(port))
        assert (failure.category, failure.retry_after) == (category, seconds)


def test_grpc_server_that_is_down_or_slow() -> None:
    failure = raised(lambda: call_grpc(closed_port()))
    assert (failure.code, failure.category) == ("grpc.RpcError", T)
    done = threading.Event()
    with grpc_server(lambda _: done.wait(10)) as port:
        failure = raised(lambda: call_grpc(port, timeout=0.2))
        assert "DEADLINE_EXCEEDED" in failure.remedy
        assert failure.execution is ME
        done.set()


# botocore


@pytest.fixture(scope="module")
def server() -> Iterator[FlakyServer]:
    with flaky_server() as one:
        yield one


def dynamodb(url: str) -> Any:
    import botocore.config
    import botocore.session

    session = botocore.session.Session()
    session.set_credentials("key", "secret")
    config = botocore.config.Config(
        retries={"total_max_attempts": 1}, read_timeout=0.3, connect_timeout=1, proxies={}
    )
    return session.create_client(
        "dynamodb", region_name="eu-central-1", endpoint_url=url, config=config
    )


BODIES = {
    "ThrottlingException": (400, T, True, NE),
    "ProvisionedThroughputExceededException": (400, T, True, NE),
    "AccessDeniedException": (400, A, False, NE),
    "ResourceNotFoundException": (400, N, False, ME),
    "ValidationException": (400, P, False, NE),
    "InternalServerError": (500, T, False, ME),
    "SomethingElse": (409, X, False, EX),
}


@pytest.mark.parametrize("code", BODIES)
def test_botocore_error_codes(server: FlakyServer, code: str) -> None:
    status, category, throttled, execution = BODIES[code]
    body = b'{"__type":"com.amazonaws.dynamodb.v20120810#' + code.encode() + b'","message":"m"}'
    server.script["/"] = [(status, {"Retry-After": "3", "X-Body": body.decode()})]
    failure = raised(lambda: dynamodb(server.url).list_tables())
    assert (failure.category, failure.throttled) == (category, throttled)
    assert failure.execution is execution
    assert failure.retry_after == 3.0
    assert failure.code.startswith(("botocore.exceptions.", "botocore.errorfactory."))


@pytest.mark.parametrize(
    ("what", "code", "execution"),
    [
        ("close", "botocore.exceptions.ConnectionClosedError", ME),
        ("reset", "botocore.exceptions.ConnectionClosedError", ME),
        ("slow", "botocore.exceptions.ReadTimeoutError", ME),
    ],
)
def test_botocore_connections(
    server: FlakyServer, what: str, code: str, execution: Execution
) -> None:
    server.script["/"] = [what]
    failure = raised(lambda: dynamodb(server.url).list_tables())
    assert (failure.code, failure.category, failure.execution) == (code, T, execution)


def test_botocore_refused_and_refusing() -> None:
    client = dynamodb(f"http://127.0.0.1:{closed_port()}")
    failure = raised(client.list_tables)
    assert failure.code == "botocore.exceptions.EndpointConnectionError"
    assert (failure.category, failure.execution) == (T, NE)
    failure = raised(lambda: client.get_item(Nothing=3))
    assert (failure.category, failure.execution) == (P, NE)


# Databases


STATES = {
    "57P03": (T, NE),
    "53300": (T, NE),
    "28P01": (A, NE),
    "3D000": (N, NE),
    "40001": (T, NE),
    "57P01": (T, ME),
}


@pytest.mark.parametrize("state", STATES)
def test_asyncpg_by_sqlstate(state: str) -> None:
    import asyncpg

    async def connect(port: int) -> None:
        await asyncpg.connect(host="127.0.0.1", port=port, user="u", database="d", timeout=5)

    with refusing_postgres(state) as port:
        failure = raised(lambda: asyncio.run(connect(port)))
        assert (failure.category, failure.execution) == STATES[state]
        assert failure.code.startswith("asyncpg.exceptions.")


def test_asyncpg_refused_connection() -> None:
    import asyncpg

    port = closed_port()
    failure = raised(
        lambda: asyncio.run(asyncpg.connect(host="127.0.0.1", port=port, user="u", database="d"))
    )
    assert (failure.category, failure.execution) == (T, NE)


def test_sqlalchemy_by_its_drivers_error() -> None:
    import sqlalchemy

    for port, execution in ((closed_port(), NE),):
        engine = sqlalchemy.create_engine(f"postgresql+psycopg://u@127.0.0.1:{port}/d")
        failure = raised(engine.connect)
        assert failure.code == "sqlalchemy.exc.OperationalError"
        assert (failure.category, failure.execution) == (T, execution)
        assert failure.inner is not None
        assert failure.inner.code == "psycopg.OperationalError"
        engine.dispose()


def test_sqlalchemy_sqlite_and_pool(tmp_path: Path) -> None:
    import sqlalchemy
    from sqlalchemy import pool, text

    path = tmp_path / "db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("create table t (x)")
    holder.execute("begin exclusive")
    engine = sqlalchemy.create_engine(
        f"sqlite:///{path}", connect_args={"timeout": 0.01}, poolclass=pool.QueuePool,
        pool_size=1, max_overflow=0, pool_timeout=0.05,
    )  # fmt: skip

    def insert() -> None:
        with engine.begin() as connection:
            connection.execute(text("insert into t values (1)"))

    failure = raised(insert)
    assert (failure.code, failure.category) == ("sqlalchemy.exc.OperationalError", T)
    holder.execute("commit")
    with engine.connect():
        failure = raised(engine.connect)
        assert (failure.code, failure.category) == ("sqlalchemy.exc.TimeoutError", T)
        assert failure.throttled

    def wrong() -> None:
        with engine.begin() as connection:
            connection.execute(text("select x from missing"))

    assert raised(wrong).category is X
    engine.dispose()
    holder.close()

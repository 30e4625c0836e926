"""What known libraries raise, raised by them against real servers on 127.0.0.1."""

from __future__ import annotations

import asyncio
import errno
import functools
import importlib
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import httpcore
import httpx
import psycopg
import pytest
import redis
import requests
import urllib3
from support.flaky_http import (
    FlakyServer,
    closed_port,
    flaky_server,
    full_port,
    raw_server,
    secure_server,
)
from support.postgres_wire import refusing_postgres
from support.redis_fixtures import RedisServer, needs_redis
from support.short_names import EX, ME, NE, A, N, P, T, X
from support.waiting import until_sockets_closed

from iii_resilience import Category, Execution, Failure, classify
from iii_resilience.core.classifiers.library_details import retry_after
from iii_resilience.core.classifiers.library_exceptions import ROWS, from_library
from iii_resilience.core.report import execution_over

HERE = {"httpx", "httpcore", "requests", "urllib3", "aiohttp", "redis", "psycopg"}
STANDARD = {"urllib", "http", "ssl", "socket", "sqlite3", "builtins"}


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def server() -> Iterator[FlakyServer]:
    with flaky_server() as one:
        yield one


def raised(call: Callable[[], Any]) -> Failure:
    """The failure of what a call raises."""
    with pytest.raises(Exception) as caught:
        call()
    failure = classify(caught.value)
    if isinstance(caught.value, urllib.error.HTTPError):
        caught.value.close()
    assert (failure.system, failure.origin, failure.known) == ("local", "library", True)
    return failure


def facts(failure: Failure) -> tuple[str, Category, Execution]:
    return failure.code, failure.category, failure.execution


# Every row names a class that exists, and that it finds.


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.module.split(".")[0] in HERE | STANDARD], ids=lambda r: r.name
)
def test_row_finds_its_class_under_both_names(row: Any) -> None:
    kind = getattr(importlib.import_module(row.module), row.name.rpartition(".")[2])
    public, _, name = row.name.rpartition(".")
    assert getattr(importlib.import_module(public or "builtins"), name) is kind
    # socket and ssl re-export what a C module defines under their name.
    assert f"{kind.__module__}.{kind.__qualname__}" in {row.name, f"{row.module}.{name}"}
    assert issubclass(kind, Exception)
    error = kind.__new__(kind)
    found = from_library(error)
    # Without its attributes a row that goes by them has nothing to say, or what its class says.
    assert found is None or found.code == row.name


# httpx


PATIENT = 10.0  # seconds, of a client whose server answers


def get(client: str, url: str, *, timeout: float = PATIENT, **more: Any) -> Any:
    if client == "httpx":
        return httpx.get(url, timeout=timeout, **more).raise_for_status()
    if client == "requests":
        with requests.get(url, timeout=timeout, **more) as response:
            response.raise_for_status()
            return response.content
    if client == "urllib":
        with urllib.request.urlopen(url, timeout=timeout, **more) as response:
            return response.read()
    if client == "urllib3":
        with urllib3.PoolManager(retries=False, timeout=timeout) as pool:
            return pool.request("GET", url, **more).data
    assert client == "aiohttp"
    return asyncio.run(aio(url, sock_read=timeout, **more))


async def aio(url: str, *, sock_read: float = PATIENT, **more: Any) -> bytes:
    timeout = aiohttp.ClientTimeout(sock_read=sock_read, sock_connect=PATIENT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, **more) as response,
        ):
            response.raise_for_status()
            return await response.read()
    finally:
        await until_sockets_closed()


REFUSED = {
    "httpx": "httpx.ConnectError",
    "requests": "requests.ConnectionError",
    "urllib": "urllib.error.URLError",
    "urllib3": "urllib3.exceptions.NewConnectionError",
    "aiohttp": "aiohttp.ClientConnectorError",
}


@pytest.mark.parametrize("client", REFUSED)
def test_refused_connection_never_ran(client: str) -> None:
    failure = raised(lambda: get(client, f"http://127.0.0.1:{closed_port()}/"))
    assert facts(failure) == (REFUSED[client], T, NE)
    assert not failure.proves_unexecuted
    assert execution_over([failure]) is ME


@pytest.mark.parametrize("client", ["httpx", "requests", "urllib", "aiohttp"])
def test_unknown_host_never_ran(client: str) -> None:
    failure = raised(lambda: get(client, "http://nothing.invalid/"))
    assert (failure.category, failure.execution) == (T, NE)


BROKEN: dict[tuple[str, str], tuple[str, Execution]] = {
    ("httpx", "close"): ("httpx.RemoteProtocolError", ME),
    ("httpx", "reset"): ("httpx.ReadError", ME),
    ("httpx", "slow"): ("httpx.ReadTimeout", ME),
    ("httpx", "garbage"): ("httpx.RemoteProtocolError", ME),
    ("httpx", "broken"): ("httpx.RemoteProtocolError", ME),
    ("requests", "close"): ("requests.ConnectionError", ME),
    ("requests", "reset"): ("requests.ConnectionError", ME),
    ("requests", "slow"): ("requests.ReadTimeout", ME),
    ("requests", "garbage"): ("requests.ConnectionError", ME),
    ("requests", "broken"): ("requests.exceptions.ChunkedEncodingError", EX),
    ("urllib3", "close"): ("urllib3.exceptions.ProtocolError", ME),
    ("urllib3", "reset"): ("urllib3.exceptions.ProtocolError", ME),
    ("urllib3", "slow"): ("urllib3.exceptions.ReadTimeoutError", ME),
    ("urllib", "close"): ("http.client.RemoteDisconnected", ME),
    ("urllib", "reset"): ("ConnectionResetError", ME),
    ("urllib", "slow"): ("TimeoutError", ME),
    ("urllib", "garbage"): ("http.client.BadStatusLine", ME),
    ("urllib", "broken"): ("http.client.IncompleteRead", EX),
    ("aiohttp", "close"): ("aiohttp.ServerDisconnectedError", ME),
    ("aiohttp", "reset"): ("aiohttp.ClientOSError", ME),
    ("aiohttp", "slow"): ("aiohttp.client_exceptions.SocketTimeoutError", ME),
    ("aiohttp", "broken"): ("aiohttp.ClientPayloadError", EX),
}


@pytest.mark.parametrize(("client", "what"), BROKEN)
def test_broken_connection_may_have_run(server: FlakyServer, client: str, what: str) -> None:
    code, execution = BROKEN[client, what]
    timeout = 0.3 if what == "slow" else PATIENT
    url = server.says(f"/{client}/{what}", *[what] * 3)
    failure = raised(lambda: get(client, url, timeout=timeout))
    assert (failure.category, failure.execution) == (T, execution)
    assert failure.code == code


STATUSES = {
    400: (P, False),
    401: (A, False),
    403: (A, False),
    404: (N, False),
    408: (T, False),
    410: (N, False),
    412: (P, False),
    413: (P, False),
    415: (P, False),
    418: (X, False),
    422: (P, False),
    425: (T, False),
    429: (T, True),
    500: (T, False),
    501: (X, False),
    502: (T, False),
    503: (T, True),
    504: (T, False),
    505: (X, False),
    507: (T, False),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("client", ["httpx", "requests", "urllib", "aiohttp"])
def test_status_of_answer(server: FlakyServer, client: str, status: int) -> None:
    url = server.says(f"/{client}/{status}", (status, {"Retry-After": "7"}))
    failure = raised(lambda: get(client, url))
    category, throttled = STATUSES[status]
    assert (failure.code, failure.category) == (f"HTTP {status}", category)
    assert (failure.throttled, failure.retry_after) == (throttled, 7.0)
    # The engine's http_error says the same of the same status.
    wire = classify({"code": "http_error", "message": f"HTTP {status} words"})
    assert (wire.category, wire.throttled) == (category, throttled)
    assert wire.inner is not None
    assert wire.inner.execution is failure.execution


def test_retry_after_as_date_counts_from_answers_own() -> None:
    assert retry_after({"Retry-After": formatdate(1000, usegmt=True)}) == 0.0
    dated = {
        "Retry-After": formatdate(5_000, usegmt=True),
        "Date": formatdate(4_960, usegmt=True),
    }
    assert retry_after(dated) == 40.0
    soon = retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert soon is not None
    assert 50 < soon <= 61


@pytest.mark.parametrize(
    "value",
    ["", "soon", "-5", "1.5", "٣", "Wed, 99 Foo 2026", "9" * 64 + "x"],
)
def test_retry_after_of_another_form_counts_for_nothing(value: str) -> None:
    assert retry_after({"Retry-After": value}) is None


def test_retry_after_without_end_is_cut() -> None:
    assert retry_after({"Retry-After": "9" * 60}) == 1e9
    assert retry_after(None) is None
    assert retry_after({}) is None


CLIENT_SIDE: dict[str, tuple[Callable[[], Any], str, Category]] = {
    "httpx protocol": (lambda: httpx.get("ftp://x/"), "httpx.UnsupportedProtocol", P),
    "httpx url": (lambda: httpx.get("http://x\0y/"), "httpx.InvalidURL", P),
    "requests schema": (lambda: requests.get("x"), "requests.exceptions.MissingSchema", P),
    "requests url": (lambda: requests.get("http://"), "requests.exceptions.InvalidURL", P),
    "urllib scheme": (lambda: urllib.request.urlopen("nope://x"), "urllib.error.URLError", P),
    "aiohttp url": (
        lambda: asyncio.run(aio("http://")),
        "aiohttp.client_exceptions.InvalidUrlClientError",
        P,
    ),
    "urllib3 url": (
        lambda: urllib3.PoolManager(retries=False).request("GET", "http://["),
        "urllib3.exceptions.LocationParseError",
        P,
    ),
}


@pytest.mark.parametrize("case", CLIENT_SIDE)
def test_request_that_client_refuses(case: str) -> None:
    call, code, category = CLIENT_SIDE[case]
    assert facts(raised(call)) == (code, category, NE)


def test_exhausted_pool_of_client_is_throttled(server: FlakyServer) -> None:
    url = server.says("/pool", "slow")

    async def two() -> None:
        limits, timeout = httpx.Limits(max_connections=1), httpx.Timeout(PATIENT, pool=0.2)
        async with httpx.AsyncClient(limits=limits, timeout=timeout) as client:
            first = asyncio.create_task(client.get(url))
            try:
                while "/pool" not in server.requests:
                    await asyncio.sleep(0.005)
                await client.get(url)
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)

    failure = raised(lambda: asyncio.run(two()))
    assert facts(failure) == ("httpx.PoolTimeout", T, NE)
    assert failure.throttled


def test_connect_timeout_never_ran() -> None:
    with full_port() as port:
        failure = raised(lambda: httpx.get(f"http://127.0.0.1:{port}/", timeout=0.3))
        assert facts(failure) == ("httpx.ConnectTimeout", T, NE)
        failure = raised(lambda: requests.get(f"http://127.0.0.1:{port}/", timeout=0.3))
        assert facts(failure) == ("requests.ConnectTimeout", T, NE)


def test_httpcore_by_itself() -> None:
    failure = raised(lambda: httpcore.request("GET", f"http://127.0.0.1:{closed_port()}/"))
    assert facts(failure) == ("httpcore.ConnectError", T, NE)


def test_untrusted_certificate_is_permanent(tmp_path: Path) -> None:
    with secure_server(tmp_path) as url:
        for client, code in (
            ("httpx", "httpx.ConnectError"),
            ("requests", "requests.exceptions.SSLError"),
            ("urllib", "urllib.error.URLError"),
            ("urllib3", "urllib3.exceptions.SSLError"),
            ("aiohttp", "aiohttp.ClientConnectorCertificateError"),
        ):
            assert facts(raised(functools.partial(get, client, url))) == (code, X, NE)


# Redis

SCRIPTED = {
    b"-LOADING Redis is loading the dataset in memory": ("redis.BusyLoadingError", T, NE),
    b"-READONLY You can't write against a read only replica.": ("redis.ReadOnlyError", T, NE),
    b"-NOAUTH Authentication required.": ("redis.AuthenticationError", A, NE),
    b"-NOPERM no permission": ("redis.exceptions.NoPermissionError", A, NE),
    b"-TRYAGAIN Multiple keys request during rehashing": ("redis.exceptions.TryAgainError", T, NE),
    b"-CLUSTERDOWN The cluster is down": ("redis.exceptions.ClusterDownError", T, NE),
    b"-MASTERDOWN Link with MASTER is down": ("redis.exceptions.MasterDownError", T, NE),
    b"-ERR anything": ("redis.exceptions.ResponseError", X, NE),
}


def no_retry(**more: Any) -> redis.Redis:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis(retry=Retry(NoBackoff(), 0), protocol=2, driver_info=None, **more)


@pytest.mark.parametrize("answer", SCRIPTED, ids=lambda a: a.split()[0].decode())
def test_redis_answers(answer: bytes) -> None:
    with raw_server(*[answer + b"\r\n"] * 4) as port, no_retry(port=port) as client:
        assert facts(raised(lambda: client.get("k"))) == SCRIPTED[answer]


def test_redis_connections() -> None:
    with no_retry(port=closed_port()) as client:
        assert facts(raised(client.ping)) == ("redis.ConnectionError", T, NE)
    with raw_server(None) as port, no_retry(port=port) as client:
        assert facts(raised(client.ping)) == ("redis.ConnectionError", T, ME)


@needs_redis
def test_redis_server(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        with no_retry(port=server.port) as client:
            client.set("text", "x")
            failure = raised(lambda: client.lpush("text", "y"))
            assert facts(failure) == ("redis.exceptions.ResponseError", X, NE)
            unsendable: Any = object()
            refused = raised(lambda: client.set("k", unsendable))
            assert facts(refused) == ("redis.DataError", P, NE)
            with no_retry(port=server.port, socket_timeout=0.3) as hasty:
                failure = raised(lambda: hasty.blpop(["none"], 60))
            assert facts(failure) == ("redis.TimeoutError", T, ME)
            client.config_set("maxmemory", "1")
            failure = raised(lambda: client.set("k", "v"))
            assert facts(failure) == ("redis.OutOfMemoryError", T, NE)
            assert failure.throttled
            client.config_set("maxmemory", "0")
            with client.pipeline() as pipe:
                pipe.watch("text")
                client.set("text", "changed")
                pipe.multi()
                pipe.set("text", "z")
                assert facts(raised(pipe.execute)) == ("redis.WatchError", T, NE)
            client.config_set("requirepass", "secret")
            with no_retry(port=server.port, password="wrong") as other:
                failure = raised(other.ping)
                assert facts(failure) == ("redis.AuthenticationError", A, NE)
            server.stop()
            assert facts(raised(client.ping))[:2] == ("redis.ConnectionError", T)
    finally:
        server.stop()


# PostgreSQL by psycopg; with a server in the long tests.


def test_psycopg_connections() -> None:
    def connect(port: int) -> None:
        psycopg.connect(host="127.0.0.1", port=port, connect_timeout=20, dbname="x", user="x")

    failure = raised(lambda: connect(closed_port()))
    assert facts(failure) == ("psycopg.OperationalError", T, NE)
    with refusing_postgres("57P03", "the database system is starting up") as port:
        assert facts(raised(lambda: connect(port))) == ("psycopg.OperationalError", T, NE)
    with refusing_postgres("28P01", "password authentication failed for user") as port:
        assert facts(raised(lambda: connect(port))) == ("psycopg.OperationalError", A, NE)


STATES = {
    "40001": (T, NE, False),
    "40P01": (T, NE, False),
    "08006": (T, ME, False),
    "08001": (T, NE, False),
    "57P01": (T, ME, False),
    "57P03": (T, NE, False),
    "53300": (T, NE, True),
    "55P03": (T, NE, False),
    "28P01": (A, NE, False),
    "42P01": (N, NE, False),
    "23505": (P, NE, False),
    "22003": (P, NE, False),
    "42601": (X, NE, False),
    "XX000": (X, ME, False),
    "57014": (X, ME, False),
}


@pytest.mark.parametrize("state", STATES)
def test_sqlstates(state: str) -> None:
    kind = psycopg.errors.lookup(state)
    failure = classify(kind("words"))
    assert (failure.category, failure.execution, failure.throttled) == STATES[state]
    assert failure.code == f"psycopg.errors.{kind.__name__}"


def test_sqlite_that_another_connection_holds(tmp_path: Path) -> None:
    path = tmp_path / "db"
    first = sqlite3.connect(path, isolation_level=None)
    second = sqlite3.connect(path, timeout=0.01, isolation_level=None)
    try:
        first.execute("create table t (x)")
        first.execute("begin exclusive")
        failure = raised(lambda: second.execute("insert into t values (1)"))
        assert facts(failure) == ("sqlite3.OperationalError", T, NE)
        first.execute("commit")
        with pytest.raises(sqlite3.OperationalError) as caught:
            second.execute("insert into nothing values (1)")
        assert classify(caught.value).category is X
    finally:
        first.close()
        second.close()


# OSError


ERRNOS = {
    errno.ECONNREFUSED: (T, NE, False),
    errno.EHOSTUNREACH: (T, NE, False),
    errno.ECONNRESET: (T, ME, False),
    errno.EPIPE: (T, ME, False),
    errno.ETIMEDOUT: (T, ME, False),
    errno.EAGAIN: (T, ME, False),
    errno.EMFILE: (T, ME, True),
    errno.EACCES: (A, ME, False),
    errno.ENOENT: (N, ME, False),
    errno.ENOSPC: (X, ME, False),
}


@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
def test_os_errors_by_number(number: int) -> None:
    failure = classify(OSError(number, "words"))
    assert (failure.category, failure.execution, failure.throttled) == ERRNOS[number]
    assert failure.origin == "library"


def test_os_errors_of_real_calls(tmp_path: Path) -> None:
    assert facts(raised((tmp_path / "no").read_text)) == ("FileNotFoundError", N, ME)
    assert facts(raised(tmp_path.read_text)) == ("IsADirectoryError", X, ME)
    port = closed_port()
    failure = raised(lambda: socket.create_connection(("127.0.0.1", port)))
    assert facts(failure) == ("ConnectionRefusedError", T, NE)
    assert facts(raised(lambda: socket.getaddrinfo("nothing.invalid", 1))) == (
        "socket.gaierror",
        T,
        NE,
    )


def test_os_error_without_number_stays_unknown() -> None:
    assert classify(OSError("words")).known is False


# What nothing overrides.


class CodedError(Exception):
    """As the SDK's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def chained(error: Exception, cause: Exception, *, explicit: bool) -> Exception:
    try:
        try:
            raise cause
        except Exception as first:
            if explicit:
                raise error from first
            raise error  # noqa: B904 - the bare context is what is tested
    except Exception as caught:
        return caught


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
def test_class_never_outranks_refusal_behind_it(code: str, *, explicit: bool) -> None:
    error = chained(httpx.ConnectError("x"), CodedError(code, "no"), explicit=explicit)
    for one in (error, chained(httpx.ReadTimeout("y"), error, explicit=explicit)):
        assert classify(one).category is not T


def test_subclass_is_named_after_itself() -> None:
    class ApiDownError(httpx.ConnectError):
        pass

    failure = classify(ApiDownError("x"))
    assert failure.code.endswith("ApiDownError")
    assert (failure.category, failure.execution) == (T, NE)


def test_library_whose_attributes_raise_is_survived() -> None:
    class OddError(httpx.HTTPStatusError):
        @property
        def response(self) -> Any:
            raise RuntimeError("no")

        @response.setter
        def response(self, value: Any) -> None:
            pass

    request = httpx.Request("GET", "http://x")
    failure = classify(OddError("x", request=request, response=httpx.Response(503)))
    assert failure.category is X


def test_socket_of_server_that_is_gone(tmp_path: Path) -> None:
    async def connect() -> None:
        await asyncio.open_unix_connection(tmp_path / "missing")

    with pytest.raises(FileNotFoundError) as caught:
        asyncio.run(connect())
    failure = classify(caught.value)
    assert (failure.category, failure.execution) == (T, NE)
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "missing").read_bytes()
    assert classify(caught.value).category is N

"""Each row of the table of libraries' exceptions, raised by the library itself; or why it is not.

The rows of gRPC, botocore, asyncpg and SQLAlchemy stand in `test_rows_provoked_long`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import math
import socket
import sqlite3
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpcore
import httpx
import psycopg
import psycopg2
import psycopg2.pool
import psycopg_pool
import pytest
import redis
import requests
import urllib3
from redis.cluster import RedisCluster
from requests.adapters import HTTPAdapter
from support.flaky_http import (
    closed_port,
    raw_server,
)
from support.library_rows import check_provoked, row_names
from support.postgres_fixtures import needs_postgres
from support.provoking_site import Site, site
from support.redis_fixtures import RedisServer, needs_redis
from support.waiting import until, until_sockets_closed

from iii_resilience import classify

__all__ = ["site"]

LIBRARIES = {
    *("httpx", "httpcore", "requests", "urllib3", "aiohttp", "redis"),
    *("psycopg", "psycopg2", "psycopg_pool"),
    *("urllib", "http", "ssl", "socket", "sqlite3", "builtins"),
}


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


GZIP = (200, {"Content-Encoding": "gzip"})
AROUND = [(302, {"Location": "/around"})] * 40
TEXT = (200, {"Content-Type": "text/plain"})


class Unrewindable(io.BytesIO):
    """A body that cannot be sent a second time."""

    def tell(self) -> int:
        raise OSError("a pipe has no position")


# httpx and httpcore


def _httpx_pool(site: Site) -> None:
    limits, timeout = httpx.Limits(max_connections=1), httpx.Timeout(5, pool=0.05)
    with httpx.Client(limits=limits, timeout=timeout) as client, client.stream("GET", site.says()):
        client.get(site.says())


def _httpx_write(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and reads nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        httpx.post(url, content=b"x" * 30_000_000, timeout=httpx.Timeout(5, write=0.1))


def _httpx_proxy(site: Site) -> None:
    with httpx.Client(proxy=site.server.url, trust_env=False) as client:
        client.get("https://shop.invalid/")


def _httpx_redirects(site: Site) -> None:
    site.server.script["/around"] = list(AROUND)
    httpx.get(site.server.url + "/around", follow_redirects=True)


def _httpx_twice(site: Site) -> None:
    with httpx.stream("GET", site.says()) as response:
        list(response.iter_raw())
        list(response.iter_raw())


HTTPX: dict[str, Callable[[Site], Any]] = {
    "httpx.ConnectError": lambda site: httpx.get(site.closed),
    "httpx.ConnectTimeout": lambda site: httpx.get(f"http://127.0.0.1:{site.full}/", timeout=0.1),
    "httpx.PoolTimeout": _httpx_pool,
    "httpx.ReadTimeout": lambda site: httpx.get(site.says("slow"), timeout=0.1),
    "httpx.WriteTimeout": _httpx_write,
    "httpx.ReadError": lambda site: httpx.get(site.says("reset")),
    "httpx.RemoteProtocolError": lambda site: httpx.get(site.says("close")),
    "httpx.ProxyError": _httpx_proxy,
    "httpx.LocalProtocolError": lambda site: httpx.get(site.says(), headers={"x": "a\nb"}),
    "httpx.UnsupportedProtocol": lambda site: httpx.get("ftp://x/"),
    "httpx.InvalidURL": lambda site: httpx.get("http://x\0y/"),
    "httpx.DecodingError": lambda site: httpx.get(site.says(GZIP)),
    "httpx.TooManyRedirects": _httpx_redirects,
    "httpx.HTTPStatusError": lambda site: httpx.get(site.says(503)).raise_for_status(),
    "httpx.StreamError": _httpx_twice,
}


def core(url: str, **timeouts: float) -> httpcore.Response:
    return httpcore.request("GET", url, extensions={"timeout": timeouts})


def _httpcore_pool(site: Site) -> None:
    with httpcore.ConnectionPool(max_connections=1) as pool, pool.stream("GET", site.says()):
        pool.request("GET", site.says(), extensions={"timeout": {"pool": 0.05}})


def _httpcore_proxy(site: Site) -> None:
    with httpcore.HTTPProxy(site.server.url) as proxy:
        proxy.request("GET", "https://shop.invalid/")


HTTPCORE: dict[str, Callable[[Site], Any]] = {
    "httpcore.ConnectError": lambda site: core(site.closed),
    "httpcore.ConnectTimeout": lambda site: core(f"http://127.0.0.1:{site.full}/", connect=0.1),
    "httpcore.PoolTimeout": _httpcore_pool,
    "httpcore.TimeoutException": lambda site: core(site.says("slow"), read=0.1),
    "httpcore.NetworkError": lambda site: core(site.says("reset")),
    "httpcore.RemoteProtocolError": lambda site: core(site.says("close")),
    "httpcore.ProxyError": _httpcore_proxy,
    "httpcore.LocalProtocolError": lambda site: httpcore.request(
        "GET", site.says(), headers={"x": "a\nb"}
    ),
    "httpcore.UnsupportedProtocol": lambda site: core("ftp://x/"),
}


# requests and urllib3


def ask(url: str, **more: Any) -> requests.Response:
    with requests.get(url, **{"timeout": 5, **more}) as response:
        response.raise_for_status()
        return response


def _requests_proxy(site: Site) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.get("http://shop.invalid/", proxies={"http": site.closed}, timeout=5)


def _requests_retry(site: Site) -> None:
    with requests.Session() as session:
        retry = urllib3.Retry(1, status_forcelist=[503], backoff_factor=0)
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.get(site.says(503, 503), timeout=5)


def _requests_redirects(site: Site) -> None:
    site.server.script["/around"] = list(AROUND)
    ask(site.server.url + "/around")


def _requests_twice(site: Site) -> None:
    with requests.get(site.says(), stream=True, timeout=5) as response:
        list(response.iter_content(1))
        list(response.iter_content(1))


def _requests_rewind(site: Site) -> None:
    url = site.says((307, {"Location": "/elsewhere", "Connection": "close"}))
    requests.post(url, data=Unrewindable(b"x"), timeout=5).close()


REQUESTS: dict[str, Callable[[Site], Any]] = {
    "requests.ConnectTimeout": lambda site: ask(f"http://127.0.0.1:{site.full}/", timeout=0.1),
    "requests.ReadTimeout": lambda site: ask(site.says("slow"), timeout=0.1),
    "requests.exceptions.SSLError": lambda site: ask(site.secure),
    "requests.exceptions.ProxyError": _requests_proxy,
    "requests.ConnectionError": lambda site: ask(site.closed),
    "requests.exceptions.ChunkedEncodingError": lambda site: ask(site.says("broken")),
    "requests.exceptions.RetryError": _requests_retry,
    "requests.exceptions.ContentDecodingError": lambda site: ask(site.says(GZIP)),
    "requests.JSONDecodeError": lambda site: ask(site.says()).json(),
    "requests.TooManyRedirects": _requests_redirects,
    "requests.HTTPError": lambda site: ask(site.says(503)),
    "requests.exceptions.InvalidURL": lambda site: ask("http://"),
    "requests.exceptions.InvalidSchema": lambda site: ask("nope://x"),
    "requests.exceptions.MissingSchema": lambda site: ask("x"),
    "requests.exceptions.InvalidHeader": lambda site: ask(site.says(), headers={"x": "a\nb"}),
    "requests.exceptions.InvalidJSONError": lambda site: ask(site.says(), json=math.nan),
    "requests.exceptions.StreamConsumedError": _requests_twice,
    "requests.exceptions.UnrewindableBodyError": _requests_rewind,
}


def pooled(url: str, **more: Any) -> bytes:
    with urllib3.PoolManager() as pool:
        return pool.request("GET", url, **{"retries": False, "timeout": 5, **more}).data


def _urllib3_empty(site: Site) -> None:
    where = ("127.0.0.1", site.server.server_address[1])
    with urllib3.HTTPConnectionPool(*where, maxsize=1, block=True) as pool:
        first = pool.request("GET", "/first", preload_content=False)
        try:
            wait: Any = 0.05  # typed as whole seconds there
            pool.urlopen("GET", "/second", pool_timeout=wait, retries=False)
        finally:
            first.release_conn()
            first.close()


def _urllib3_closed(site: Site) -> None:
    pool = urllib3.HTTPConnectionPool("127.0.0.1", site.server.server_address[1])
    pool.close()
    pool.request("GET", "/", retries=False)


def _urllib3_proxy(site: Site) -> None:
    with urllib3.ProxyManager(site.closed) as pool:
        pool.request("GET", "http://shop.invalid/", retries=False)


def _urllib3_reason(site: Site) -> None:
    with pytest.raises(urllib3.exceptions.MaxRetryError) as caught:
        pooled(site.says(503, 503), retries=urllib3.Retry(1, status_forcelist=[503]))
    assert caught.value.reason is not None
    raise caught.value.reason


URLLIB3: dict[str, Callable[[Site], Any]] = {
    "urllib3.exceptions.MaxRetryError": lambda site: pooled(site.closed, retries=1),
    "urllib3.exceptions.NewConnectionError": lambda site: pooled(site.closed),
    "urllib3.exceptions.ConnectTimeoutError": lambda site: pooled(
        f"http://127.0.0.1:{site.full}/", timeout=0.1
    ),
    "urllib3.exceptions.ReadTimeoutError": lambda site: pooled(site.says("slow"), timeout=0.1),
    "urllib3.exceptions.EmptyPoolError": _urllib3_empty,
    "urllib3.exceptions.ClosedPoolError": _urllib3_closed,
    "urllib3.exceptions.ProtocolError": lambda site: pooled(site.says("close")),
    "urllib3.exceptions.ProxyError": _urllib3_proxy,
    "urllib3.exceptions.SSLError": lambda site: pooled(site.secure),
    "urllib3.exceptions.ResponseError": _urllib3_reason,
    "urllib3.exceptions.DecodeError": lambda site: pooled(site.says(GZIP)),
    "urllib3.exceptions.LocationValueError": lambda site: pooled("http://["),
}


# aiohttp


def aio(url: Callable[[Site], str], **more: Any) -> Callable[[Site], Any]:
    """One GET that reads the body."""

    async def get(session: aiohttp.ClientSession, site: Site) -> None:
        async with session.get(url(site), **more) as response:
            response.raise_for_status()
            await response.read()

    return with_session(get)


def with_session(
    do: Callable[[aiohttp.ClientSession, Site], Awaitable[Any]],
) -> Callable[[Site], Any]:
    async def run(site: Site) -> None:
        try:
            async with aiohttp.ClientSession() as session:
                await do(session, site)
        finally:
            await until_sockets_closed()  # those of TLS are closed by the loop, later

    return lambda site: asyncio.run(run(site))


async def _aio_json(session: aiohttp.ClientSession, site: Site) -> None:
    async with session.get(site.says(TEXT)) as response:
        await response.json()


async def _aio_redirects(session: aiohttp.ClientSession, site: Site) -> None:
    site.server.script["/around"] = list(AROUND)
    await session.get(site.server.url + "/around")


async def _aio_closed(session: aiohttp.ClientSession, site: Site) -> None:
    response = await session.get(site.says())
    response.close()
    await response.read()


AIOHTTP: dict[str, Callable[[Site], Any]] = {
    "aiohttp.ClientConnectorCertificateError": aio(lambda site: site.secure),
    "aiohttp.ClientConnectorSSLError": aio(lambda site: site.says().replace("http:", "https:")),
    "aiohttp.ServerFingerprintMismatch": aio(
        lambda site: site.secure, ssl=aiohttp.Fingerprint(b"\0" * 32)
    ),
    "aiohttp.ClientConnectorError": aio(lambda site: site.closed),
    "aiohttp.ConnectionTimeoutError": aio(
        lambda site: f"http://127.0.0.1:{site.full}/",
        timeout=aiohttp.ClientTimeout(sock_connect=0.1),
    ),
    "aiohttp.ServerTimeoutError": aio(
        lambda site: site.says("slow"), timeout=aiohttp.ClientTimeout(sock_read=0.1)
    ),
    "aiohttp.ServerDisconnectedError": aio(lambda site: site.says(*["close"] * 3)),
    "aiohttp.ClientOSError": aio(lambda site: site.says(*["reset"] * 3)),
    "aiohttp.ClientConnectionError": with_session(_aio_closed),
    "aiohttp.ClientPayloadError": aio(lambda site: site.says("broken")),
    "aiohttp.ContentTypeError": with_session(_aio_json),
    "aiohttp.TooManyRedirects": with_session(_aio_redirects),
    "aiohttp.ClientResponseError": aio(lambda site: site.says(503)),
    "aiohttp.InvalidURL": aio(lambda site: "http://"),
    "aiohttp.NonHttpUrlClientError": aio(lambda site: "ftp://x/"),
}


# Redis


def redis_of(port: int, **more: Any) -> redis.Redis:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis(port=port, retry=Retry(NoBackoff(), 0), protocol=2, driver_info=None, **more)


def answered(answer: bytes | None) -> Callable[[Site], Any]:
    """A command that a port answers so."""

    def call(site: Site) -> None:
        with raw_server(*[answer] * 4) as port, redis_of(port) as client:
            client.get("k")

    return call


def _redis_pool(site: Site) -> None:
    with raw_server(b"+OK\r\n") as port, redis_of(port, max_connections=1) as client:
        held = client.connection_pool.get_connection()
        try:
            client.get("k")
        finally:
            client.connection_pool.release(held)


def _redis_timeout(site: Site) -> None:
    with redis_of(site.full, socket_connect_timeout=0.1) as client:
        client.get("k")


def _redis_refused(site: Site) -> None:
    with redis_of(closed_port()) as client:
        client.get("k")


def _redis_value(site: Site) -> None:
    unsendable: Any = object()
    with raw_server(b"+OK\r\n") as port, redis_of(port) as client:
        client.set("k", unsendable)


def _redis_lock(site: Site) -> None:
    with raw_server() as port, redis_of(port) as client:
        client.lock("k").release()


def served(do: Callable[[redis.Redis], Any], *options: str) -> Callable[[Site], Any]:
    """What a client does with a server of its own."""

    def call(site: Site) -> None:
        server = RedisServer(Path(tempfile.mkdtemp(dir=site.folder)), *options)
        server.start()
        try:
            with redis_of(server.port) as client:
                do(client)
        finally:
            server.stop()

    return call


def _redis_watch(client: redis.Redis) -> None:
    pipe: Any
    with client.pipeline() as pipe:
        pipe.watch("k")
        client.set("k", "changed")
        pipe.multi()
        pipe.set("k", "v")
        pipe.execute()


def _redis_memory(client: redis.Redis) -> None:
    client.config_set("maxmemory", "1")
    client.set("k", "v")


def _redis_slot(client: Any) -> None:
    client.config_set("cluster-require-full-coverage", "no")
    client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 1)
    port = client.connection_pool.connection_kwargs["port"]
    with contextlib.closing(
        RedisCluster(host="127.0.0.1", port=port, require_full_coverage=False)
    ) as cluster:
        cluster.get("k")


REDIS: dict[str, Callable[[Site], Any]] = {
    "redis.AuthenticationError": answered(b"-NOAUTH Authentication required.\r\n"),
    "redis.exceptions.NoPermissionError": answered(b"-NOPERM no permission\r\n"),
    "redis.BusyLoadingError": answered(b"-LOADING Redis is loading the dataset in memory\r\n"),
    "redis.exceptions.MaxConnectionsError": _redis_pool,
    "redis.ConnectionError": _redis_refused,
    "redis.TimeoutError": _redis_timeout,
    "redis.ReadOnlyError": answered(b"-READONLY You can't write against a read only replica.\r\n"),
    "redis.exceptions.AskError": answered(b"-ASK 3999 127.0.0.1:6381\r\n"),
    "redis.exceptions.TryAgainError": answered(b"-TRYAGAIN Multiple keys request\r\n"),
    "redis.exceptions.ClusterDownError": answered(b"-CLUSTERDOWN The cluster is down\r\n"),
    "redis.exceptions.MasterDownError": answered(b"-MASTERDOWN Link with MASTER is down\r\n"),
    "redis.InvalidResponse": answered(b"?what\r\n"),
    "redis.DataError": _redis_value,
    "redis.exceptions.ResponseError": answered(b"-ERR anything\r\n"),
    "redis.exceptions.LockError": _redis_lock,
}
REDIS_SERVED: dict[str, Callable[[Site], Any]] = {
    "redis.WatchError": served(_redis_watch),
    "redis.OutOfMemoryError": served(_redis_memory),
    "redis.exceptions.SlotNotCoveredError": served(
        _redis_slot, "--cluster-enabled", "yes", "--databases", "1"
    ),
}


# psycopg and psycopg2


def psycopg2_says(statement: str) -> Callable[[str], None]:
    def call(url: str) -> None:
        with contextlib.closing(psycopg2.connect(url)) as connection:
            connection.cursor().execute(statement)

    return call


def _psycopg2_closed(url: str) -> None:
    with contextlib.closing(psycopg2.connect(url)) as connection:
        cursor = connection.cursor()
        cursor.close()
        cursor.execute("select 1")


def _psycopg2_unkeyed(url: str) -> None:
    with contextlib.closing(psycopg2.connect(url)) as connection:
        psycopg2.pool.SimpleConnectionPool(0, 1, url).putconn(connection)


def _psycopg_closed(url: str) -> None:
    with psycopg.connect(url) as connection:
        cursor = connection.cursor()
        cursor.close()
        cursor.execute("select 1")


def _psycopg_division(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("select 1 / 0")


POSTGRES: dict[str, Callable[[str], Any]] = {
    "psycopg.InterfaceError": _psycopg_closed,
    "psycopg.Error": _psycopg_division,
    "psycopg2.InterfaceError": _psycopg2_closed,
    "psycopg2.pool.PoolError": _psycopg2_unkeyed,
    "psycopg2.Error": psycopg2_says("select 1 / 0"),
}


# Drivers without a server, SQLite, and what comes with Python


def _psycopg_pool(site: Site) -> None:
    url = f"host=127.0.0.1 port={closed_port()}"
    with psycopg_pool.ConnectionPool(url, min_size=0, max_size=1, open=True) as pool:
        pool.getconn(timeout=0.05)


def _psycopg_queue(site: Site) -> None:
    url = f"host=127.0.0.1 port={closed_port()}"
    pool = psycopg_pool.ConnectionPool(url, min_size=0, max_size=1, max_waiting=1, open=True)

    def wait() -> None:
        with contextlib.suppress(psycopg_pool.PoolClosed):
            pool.getconn(timeout=60)

    first = threading.Thread(target=wait)
    first.start()
    try:
        until(lambda: pool.get_stats().get("requests_waiting"))
        pool.getconn(timeout=60)
    finally:
        pool.close()
        first.join()


def _sqlite(site: Site) -> None:
    path = site.folder / "db"
    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder,
        contextlib.closing(sqlite3.connect(path, timeout=0.01)) as other,
    ):
        holder.execute("begin exclusive")
        other.execute("create table t (x)")


def fetch(url: str, **more: Any) -> bytes:
    try:
        with urllib.request.urlopen(url, **{"timeout": 5, **more}) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        error.close()
        raise


def _short(site: Site) -> None:
    try:
        urllib.request.urlretrieve(site.says("broken"), site.folder / "page")
    finally:
        urllib.request.urlcleanup()


def _tls(site: Site) -> None:
    where = ("127.0.0.1", site.server.server_address[1])  # it speaks no TLS
    context = ssl.create_default_context()
    with socket.create_connection(where) as plain:
        context.wrap_socket(plain, server_hostname="localhost").close()


def _silent(site: Site) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.settimeout(0.05)
        one.recv(1)


STANDARD: dict[str, Callable[[Site], Any]] = {
    "psycopg.OperationalError": lambda site: psycopg.connect(
        host="127.0.0.1", port=closed_port(), dbname="d", user="u"
    ),
    "psycopg2.OperationalError": lambda site: psycopg2.connect(
        host="127.0.0.1", port=closed_port(), dbname="d", user="u"
    ),
    "psycopg_pool.PoolTimeout": _psycopg_pool,
    "psycopg_pool.TooManyRequests": _psycopg_queue,
    "sqlite3.OperationalError": _sqlite,
    "urllib.error.HTTPError": lambda site: fetch(site.says(503)),
    "urllib.error.ContentTooShortError": _short,
    "urllib.error.URLError": lambda site: fetch(site.closed),
    "http.client.RemoteDisconnected": lambda site: fetch(site.says("close")),
    "http.client.IncompleteRead": lambda site: fetch(site.says("broken")),
    "http.client.BadStatusLine": lambda site: fetch(site.says("garbage")),
    "http.client.InvalidURL": lambda site: http.client.HTTPConnection("x").request("GET", "/a b"),
    "ssl.SSLError": _tls,
    "socket.gaierror": lambda site: socket.getaddrinfo("nothing.invalid", 1),
    "TimeoutError": _silent,
    "ConnectionRefusedError": lambda site: socket.create_connection(("127.0.0.1", closed_port())),
    "ConnectionError": lambda site: fetch(site.says("reset")),
    "OSError": lambda site: (site.folder / "missing").read_bytes(),
}

NOT_PROVOKED = {
    "httpx.TimeoutException": "the base of the four above, which are raised",
    "httpx.NetworkError": "the base of ReadError and ConnectError, which are raised",
    "httpx.WriteError": "over HTTP/1.1 httpcore passes it over, and reads the answer",
    "httpx.CloseError": "no transport of httpx 0.28 raises it",
    "requests.Timeout": "the base of the two above, which are raised",
    "requests.URLRequired": "requests 2.34 raises it nowhere",
    "urllib3.exceptions.TimeoutError": "the base of the two above, which are raised",
    "urllib3.exceptions.IncompleteRead": "urllib3 2 raises a ProtocolError around it",
    "urllib3.exceptions.InvalidChunkLength": "urllib3 2 raises a ProtocolError around it",
    "redis.exceptions.AuthorizationError": "raised for a refusing OCSP responder only",
}

PROVOKED = {**HTTPX, **HTTPCORE, **REQUESTS, **URLLIB3, **AIOHTTP, **REDIS, **STANDARD}


def test_every_row_is_provoked_or_has_reason() -> None:
    tables = (PROVOKED, REDIS_SERVED, POSTGRES, NOT_PROVOKED)
    assert sorted(name for table in tables for name in table) == sorted(row_names(LIBRARIES))


@pytest.mark.parametrize("name", PROVOKED)
def test_library_raises_what_row_knows(site: Site, name: str) -> None:
    check_provoked(name, lambda: PROVOKED[name](site))


@needs_redis
@pytest.mark.parametrize("name", REDIS_SERVED)
def test_redis_raises_what_row_knows(site: Site, name: str) -> None:
    check_provoked(name, lambda: REDIS_SERVED[name](site))


@needs_postgres
@pytest.mark.parametrize("name", POSTGRES)
def test_driver_raises_what_row_knows(postgres_url: str, name: str) -> None:
    check_provoked(name, lambda: POSTGRES[name](postgres_url))


@needs_postgres
def test_psycopg2_says_state_by_its_own_name(postgres_url: str) -> None:
    rows = {
        "create table t (x int primary key); insert into t values (1), (1)": ("payload", "23505"),
        "do $$ begin raise sqlstate '40001'; end $$": ("transient", "40001"),
        "do $$ begin raise sqlstate '57P01'; end $$": ("transient", "57P01"),
        "select * from missing": ("not-found", "42P01"),
    }
    for statement, (category, state) in rows.items():
        with pytest.raises(psycopg2.Error) as caught:
            psycopg2_says(statement)(postgres_url)
        failure = classify(caught.value)
        assert (failure.category.value, caught.value.pgcode) == (category, state)
        assert failure.code.startswith("psycopg2.errors.")
        assert failure.remedy.endswith(f"(SQLSTATE {state})")


@needs_postgres
def test_psycopg2_pool_that_is_exhausted(postgres_url: str) -> None:
    pool = psycopg2.pool.SimpleConnectionPool(0, 1, postgres_url)
    pool.getconn()
    with pytest.raises(psycopg2.pool.PoolError) as caught:
        pool.getconn()
    pool.closeall()
    failure = classify(caught.value)
    assert (failure.category.value, failure.throttled) == ("transient", True)


def test_drivers_without_password() -> None:
    password_please = b"R\0\0\0\x08\0\0\0\x03"  # AuthenticationCleartextPassword
    plain = "sslmode=disable gssencmode=disable passfile=/dev/null user=u dbname=d"
    for connect in (psycopg.connect, psycopg2.connect):
        with raw_server(password_please) as port, pytest.raises(Exception) as caught:
            connect(f"host=127.0.0.1 port={port} {plain}")
        assert classify(caught.value).category.value == "auth"

"""The rows of gRPC, botocore, asyncpg and SQLAlchemy, raised by each; or why they are not."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.flaky_http import closed_port
from support.library_rows import check_provoked, row_names
from support.postgres_fixtures import needs_postgres
from support.provoking_site import Site, site

__all__ = ["site"]

pytestmark = [
    pytest.mark.long,
    pytest.mark.library,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*"),
]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration, no credentials and no proxy of this machine's."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "*")


# gRPC


def _grpc_refused(site: Site) -> None:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{closed_port()}") as channel:
        channel.unary_unary("/test.Service/Call")(b"", timeout=5)


def _grpc_future(site: Site) -> None:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{closed_port()}") as channel:
        grpc.channel_ready_future(channel).result(timeout=0.1)


GRPC = {"grpc.RpcError": _grpc_refused, "grpc.FutureTimeoutError": _grpc_future}


# botocore


def client(
    service: str, url: str, *, keys: bool = True, region: str | None = "eu-central-1", **config: Any
) -> Any:
    import botocore.config
    import botocore.session

    session = botocore.session.Session()
    if keys:
        session.set_credentials("key", "secret")
    given = {"retries": {"total_max_attempts": 1}, "connect_timeout": 1, "read_timeout": 0.3}
    given |= {"proxies": {}, **config}
    return session.create_client(
        service, region_name=region, endpoint_url=url, config=botocore.config.Config(**given)
    )


def tables(url: Callable[[Site], str], **more: Any) -> Callable[[Site], Any]:
    return lambda site: client("dynamodb", url(site), **more).list_tables()


def answering(*instructions: Any) -> Callable[[Site], str]:
    def url(site: Site) -> str:
        site.server.script["/"] = list(instructions)
        return site.server.url

    return url


def an_object(*instructions: Any, amount: int | None = None, **more: Any) -> Callable[[Site], Any]:
    """What becomes of the body of an object of S3."""

    def call(site: Site) -> None:
        site.server.script["/bucket/key"] = list(instructions)
        s3 = client("s3", site.server.url, s3={"addressing_style": "path"}, **more)
        s3.get_object(Bucket="bucket", Key="key")["Body"].read(amount)

    return call


def _short_body(site: Site) -> None:
    from botocore.response import StreamingBody

    StreamingBody(io.BytesIO(b"x"), content_length=3).read()


def _checksum(site: Site) -> None:
    from botocore.retryhandler import CRC32Checker

    url = answering((200, {"x-amz-crc32": "1"}))(site)
    import botocore.awsrequest
    import botocore.httpsession

    request = botocore.awsrequest.AWSRequest("GET", url + "/").prepare()
    response = botocore.httpsession.URLLib3Session().send(request)
    CRC32Checker("x-amz-crc32")(1, (response, {}), None)


def _bucket(site: Site) -> None:
    from botocore.retries.bucket import Clock, TokenBucket

    bucket = TokenBucket(max_rate=1, clock=Clock())
    for _ in range(9):
        bucket.acquire(block=False)


def _half_credentials(site: Site) -> None:
    from botocore.credentials import EnvProvider

    EnvProvider({"AWS_ACCESS_KEY_ID": "key"}).load()


def _process_credentials(site: Site) -> None:
    import botocore.session

    (site.folder / "config").write_text("[default]\ncredential_process = false\n")
    session = botocore.session.Session()
    session.set_config_variable("config_file", str(site.folder / "config"))
    session.get_credentials()


def _sso(site: Site) -> Any:
    from botocore.credentials import SSOCredentialFetcher

    class NoToken:
        def __call__(self, url: str) -> Any:
            past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
            return {"accessToken": "x", "expiresAt": past.isoformat()}

    def sso(*args: Any, **more: Any) -> Any:
        site.server.script["/federation/credentials"] = [
            (
                401,
                {
                    "X-Body": json.dumps({"message": "no"}),
                    "x-amzn-ErrorType": "UnauthorizedException",
                },
            )
        ]
        return client("sso", site.server.url)

    return SSOCredentialFetcher(
        "https://start.invalid", "eu-central-1", "role", "1", sso, token_loader=NoToken()
    ).fetch_credentials()


def sso_token(known: dict[str, str] | None = None) -> Callable[[Site], Any]:
    """The token of a profile, from a cache with the one that is given, or with none."""

    def call(site: Site) -> Any:
        import botocore.session
        from botocore.tokens import DeferredRefreshableToken, SSOTokenProvider

        (site.folder / "sso").write_text(
            "[default]\nsso_session = s\n[sso-session s]\nsso_region = eu-central-1\n"
            "sso_start_url = https://start.invalid\n"
        )
        session = botocore.session.Session()
        session.set_config_variable("config_file", str(site.folder / "sso"))
        key = hashlib.sha1(b"s").hexdigest()  # the name of the session
        cache = {} if known is None else {key: known}
        token = SSOTokenProvider(session, cache=cache).load_token()
        assert isinstance(token, DeferredRefreshableToken)
        return token.get_frozen_token()

    return call


BOTOCORE: dict[str, Callable[[Site], Any]] = {
    "botocore.exceptions.ClientError": tables(
        answering((400, {"X-Body": '{"__type":"x#AccessDeniedException","message":"m"}'}))
    ),
    "botocore.exceptions.EndpointConnectionError": tables(
        lambda site: f"http://127.0.0.1:{closed_port()}"
    ),
    "botocore.exceptions.ConnectTimeoutError": tables(
        lambda site: f"http://127.0.0.1:{site.full}", connect_timeout=0.1
    ),
    "botocore.exceptions.ProxyConnectionError": tables(
        lambda site: "http://shop.invalid",
        proxies={"http": f"http://127.0.0.1:{closed_port()}"},
    ),
    "botocore.exceptions.SSLError": tables(lambda site: site.secure),
    "botocore.exceptions.ReadTimeoutError": tables(answering("slow")),
    "botocore.exceptions.ConnectionClosedError": tables(answering("close")),
    "botocore.exceptions.HTTPClientError": tables(answering(), user_agent="a\nb"),
    "botocore.exceptions.ResponseStreamingError": an_object("broken"),
    "botocore.exceptions.IncompleteReadError": _short_body,
    "botocore.exceptions.ChecksumError": _checksum,
    "botocore.exceptions.CapacityNotAvailableError": _bucket,
    "botocore.exceptions.NoCredentialsError": tables(answering(), keys=False),
    "botocore.exceptions.PartialCredentialsError": _half_credentials,
    "botocore.exceptions.CredentialRetrievalError": _process_credentials,
    "botocore.exceptions.UnauthorizedSSOTokenError": _sso,
    "botocore.exceptions.SSOTokenLoadError": sso_token(),
    "botocore.exceptions.TokenRetrievalError": sso_token(
        {"accessToken": "x", "expiresAt": "2020-01-01T00:00:00Z"}
    ),
    "botocore.exceptions.ParamValidationError": lambda site: client(
        "dynamodb", site.server.url
    ).get_item(Nothing=3),
    "botocore.exceptions.NoRegionError": tables(answering(), region=None),
}


# asyncpg and SQLAlchemy; what the server refuses stands in `test_databases_long`


def _sqlalchemy(do: Callable[[Any], Any]) -> Callable[[str], None]:
    def call(url: str) -> None:
        import sqlalchemy

        engine = sqlalchemy.create_engine(
            url.replace("postgresql:", "postgresql+psycopg:"),
            pool_size=1,
            max_overflow=0,
            pool_timeout=0.05,
        )
        try:
            with engine.connect() as connection:
                do(connection)
        finally:
            engine.dispose()

    return call


def _one(connection: Any) -> None:
    import sqlalchemy

    connection.execute(sqlalchemy.text("select 1 where false")).one()


def _bad_parameter(connection: Any) -> None:
    import sqlalchemy

    connection.execute(sqlalchemy.text("select :x"), {"y": 1})


def _wrong_usage(connection: Any) -> None:
    connection.close()
    connection.exec_driver_sql("select 1")


def asyncpg_at_once(*statements: str) -> Callable[[str], None]:
    """Statements on one connection, which takes one at a time."""

    def call(url: str) -> None:
        import asyncpg

        async def run() -> None:
            connection = await asyncpg.connect(url)
            try:
                await asyncio.gather(*map(connection.execute, statements))
            finally:
                connection.terminate()
                await asyncio.sleep(0.05)

        asyncio.run(run())

    return call


def _emulated(url: str) -> None:
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine

    async def run() -> None:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql("select 1 / 0")
        finally:
            await engine.dispose()

    with pytest.raises(DBAPIError) as caught:
        asyncio.run(run())
    assert caught.value.orig is not None
    raise caught.value.orig from caught.value.orig.__cause__


DATABASES: dict[str, Callable[[str], Any]] = {
    "asyncpg.PostgresError": asyncpg_at_once("selec 1"),
    "asyncpg.InterfaceError": asyncpg_at_once("select pg_sleep(0.2)", "select 1"),
    "sqlalchemy.exc.TimeoutError": _sqlalchemy(lambda connection: connection.engine.connect()),
    "sqlalchemy.exc.NoResultFound": _sqlalchemy(_one),
    "sqlalchemy.exc.DBAPIError": _sqlalchemy(lambda connection: connection.exec_driver_sql("no")),
    "sqlalchemy.exc.StatementError": _sqlalchemy(_bad_parameter),
    "sqlalchemy.exc.SQLAlchemyError": _sqlalchemy(_wrong_usage),
    "sqlalchemy.dialects.postgresql.asyncpg.Error": _emulated,
}

NOT_PROVOKED = {
    "botocore.exceptions.ConnectionError": "the base of those above, which are raised",
    "sqlalchemy.exc.DisconnectionError": "a pool takes it as a signal, and connects anew",
}


def test_every_row_is_provoked_or_has_reason() -> None:
    known = row_names({"grpc", "botocore", "asyncpg", "sqlalchemy"})
    tables_of_tests = (GRPC, BOTOCORE, DATABASES, NOT_PROVOKED)
    assert sorted(name for table in tables_of_tests for name in table) == sorted(known)


@pytest.mark.parametrize("name", [*GRPC, *BOTOCORE])
def test_library_raises_what_row_knows(site: Site, name: str) -> None:
    check_provoked(name, lambda: {**GRPC, **BOTOCORE}[name](site))


@needs_postgres
@pytest.mark.parametrize("name", DATABASES)
def test_database_raises_what_row_knows(postgres_url: str, name: str) -> None:
    check_provoked(name, lambda: DATABASES[name](postgres_url))

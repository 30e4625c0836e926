"""`RedisStore`: effects and keys as one commit, and a server that is away."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from typing import Any

import pytest
import redis
from support.redis_fixtures import RedisServer, client, needs_redis, store

from iii_resilience.stores import RedisStore, State, StoreUnavailableError

__all__ = ["client", "store"]

KEEP = 3600.0


def claim(store: RedisStore, lease: float = KEEP) -> int:
    found = store.claim("k", fingerprint="f", nonce="n", lease=lease, keep=KEEP)
    assert found.state is State.CLAIMED
    return found.token


def state(store: RedisStore) -> State:
    return store.claim(
        "k", fingerprint="f", nonce=str(time.monotonic_ns()), lease=KEEP, keep=KEEP
    ).state


@needs_redis
def test_effect_and_key_are_one_commit(store: RedisStore, client: Any) -> None:
    transaction = store.begin("k", claim(store))
    with transaction.handle as commands:
        commands.incr("effects")
        commands.rpush("list", "a", "b")
    assert client.exists("effects", "list") == 0
    assert transaction.commit('"done"', keep=KEEP)
    assert (client.get("effects"), client.lrange("list", 0, -1)) == ("1", ["a", "b"])
    assert state(store) is State.DONE


@needs_redis
def test_rollback_leaves_neither(store: RedisStore, client: Any) -> None:
    token = claim(store)
    transaction = store.begin("k", token)
    transaction.handle.incr("effects")
    transaction.rollback()
    assert client.exists("effects") == 0
    assert state(store) is State.RUNNING


@needs_redis
def test_who_has_lost_lease_writes_no_effect(store: RedisStore, client: Any) -> None:
    token = claim(store, lease=0.01)
    time.sleep(0.05)
    assert state(store) is State.CLAIMED  # by somebody else
    transaction = store.begin("k", token)
    transaction.handle.incr("effects")
    assert not transaction.commit('"done"', keep=KEEP)
    assert client.exists("effects") == 0
    assert state(store) is State.RUNNING


@needs_redis
def test_renewal_during_commit_does_not_spoil_it(
    store: RedisStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = claim(store)
    transaction = store.begin("k", token)
    transaction.handle.incr("effects")
    kind: Any = type(transaction.handle)
    original = kind.hmget
    renewed: list[bool] = []

    def hmget(self: Any, *arguments: Any) -> Any:
        answer = original(self, *arguments)
        if not renewed:
            renewed.append(store.renew("k", token, lease=KEEP, keep=KEEP))
        return answer

    monkeypatch.setattr(kind, "hmget", hmget)
    assert transaction.commit("1", keep=KEEP)
    assert renewed == [True]
    assert client.get("effects") == "1"


@needs_redis
def test_commit_whose_answer_was_lost_is_known_again(store: RedisStore, client: Any) -> None:
    token = claim(store)
    for _ in range(2):
        transaction = store.begin("k", token)
        transaction.handle.incr("effects")
        assert transaction.commit("1", keep=KEEP)
    assert client.get("effects") == "1"


@needs_redis
def test_handler_cannot_run_commands_itself(store: RedisStore) -> None:
    commands = store.begin("k", claim(store)).handle
    for method in ("execute", "watch"):
        with pytest.raises(RuntimeError, match="together with its key"):
            getattr(commands, method)()


@needs_redis
def test_command_that_redis_refuses_is_said_so(store: RedisStore, client: Any) -> None:
    client.set("text", "a")
    transaction = store.begin("k", claim(store))
    transaction.handle.incr("text")
    transaction.handle.incr("effects")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        transaction.commit("1", keep=KEEP)
    # Redis undoes nothing: what else was in it has run, and so has the key.
    assert client.get("effects") == "1"
    assert state(store) is State.DONE


@needs_redis
def test_value_that_cannot_be_sent_leaves_neither(store: RedisStore, client: Any) -> None:
    transaction = store.begin("k", claim(store))
    transaction.handle.incr("effects")
    transaction.handle.set("other", object())
    with pytest.raises(redis.DataError):
        transaction.commit("1", keep=KEEP)
    assert client.exists("effects") == 0
    assert state(store) is State.RUNNING


@needs_redis
def test_unreachable_server_fails_calls_until_it_is_back(
    store: RedisStore, redis_server: RedisServer
) -> None:
    token = claim(store)
    transaction = store.begin("k", token)
    transaction.handle.incr("effects")
    redis_server.stop()
    for ask in (
        lambda: claim(store),
        lambda: store.finish("k", token, "1", keep=KEEP),
        lambda: store.delivered("m", keep=KEEP),
        lambda: list(store.records()),
        lambda: transaction.commit("1", keep=KEEP),
    ):
        with pytest.raises(StoreUnavailableError, match="the Redis store failed: ConnectionError"):
            ask()
    redis_server.start()
    assert state(store) is State.RUNNING
    assert transaction.commit("1", keep=KEEP)
    assert state(store) is State.DONE


def test_url_may_hold_password_and_does_not_show() -> None:
    assert "secret" not in repr(RedisStore("redis://user:secret@127.0.0.1:1/0"))


@pytest.mark.parametrize(
    "url",
    ["redis://u:s3c#ret@host", "redis://u:s3cret@host:s3c", "s3c://host", "redis://h/0?db=s3c"],
)
def test_url_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="is none that redis-py takes") as caught:
        RedisStore(url)
    assert "s3c" not in "".join(traceback.format_exception(caught.value, chain=False))
    assert caught.value.__suppress_context__


def test_without_extra_it_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['redis'] = None\n"
        "from iii_resilience.stores import RedisStore\n"
        "try:\n    RedisStore('redis://127.0.0.1')\n"
        "except ImportError as error:\n    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == (
        "a RedisStore needs redis-py: pip install 'iii-resilience[redis]'"
    )

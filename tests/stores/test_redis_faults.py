"""`RedisStore` on a server that is full, late, or refuses what it is given."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from support.redis_fixtures import RedisServer, client, needs_redis, store

from iii_resilience.handling import PermanentError, TransientError, consumer, idempotent
from iii_resilience.stores import (
    RedisStore,
    State,
    StoreRefusedError,
    StoreUnavailableError,
    redis_scripts,
)
from iii_resilience.stores.protocol import Renewal, digest

__all__ = ["client", "store"]

pytestmark = needs_redis
KEEP = 3600.0


def claim(store: RedisStore, slot: str = "k", nonce: str = "") -> Any:
    return store.claim(
        slot, fingerprint="f", nonce=nonce or digest(time.monotonic_ns()), lease=KEEP, keep=KEEP
    )


# Full.


def fill(client: Any) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")


def test_nothing_runs_when_redis_is_full(store: RedisStore, client: Any) -> None:
    ran: list[Any] = []
    once: Any = idempotent(store, key="id", function_id="f")(ran.append)
    parks: Any = consumer(parking=store, key="id", function_id="f")(ran.append)
    once({"id": 0})
    ran.clear()
    fill(client)
    for handler in (once, parks):
        for _ in range(2):
            with pytest.raises(TransientError) as caught:
                handler({"id": 1})
            assert caught.value.code == "STORE_UNAVAILABLE"
    assert ran == []
    client.config_set("maxmemory", "0")
    once({"id": 1})
    assert len(ran) == 1


def test_delivery_of_parked_message_is_refused_too(store: RedisStore, client: Any) -> None:
    store.delivered("m", keep=KEEP)
    store.note("m", {}, parked=True, keep=KEEP)
    fill(client)
    with pytest.raises(StoreUnavailableError, match="OutOfMemoryError"):
        store.delivered("m", keep=KEEP)
    with pytest.raises(StoreUnavailableError):
        store.note("m", {}, parked=True, keep=KEEP)
    (record,) = store.records()
    with pytest.raises(StoreUnavailableError):
        store.prepare("m", record.revision)
    assert list(store.records()) == [record]


def test_over_lease_is_not_claimed_when_redis_is_full(store: RedisStore, client: Any) -> None:
    store.claim("k", fingerprint="f", nonce="a", lease=0.01, keep=KEEP)
    time.sleep(0.05)
    before = client.hgetall("iii-resilience:key:k")
    fill(client)
    with pytest.raises(StoreUnavailableError):
        claim(store)
    assert client.hgetall("iii-resilience:key:k") == before


def test_what_began_before_can_end_when_redis_is_full(store: RedisStore, client: Any) -> None:
    """Else the handler would run again once its lease is over."""
    tokens = [claim(store, f"k-{n}").token for n in range(3)]
    store.delivered("m", keep=KEEP)
    fill(client)
    assert store.renew("k-0", tokens[0], lease=KEEP, keep=KEEP)
    assert store.renew_many([Renewal("k-0", tokens[0], KEEP, KEEP)]) == [True]
    assert store.finish("k-0", tokens[0], "1", keep=KEEP)
    assert store.finish("k-1", tokens[1], "1", failed=True, keep=KEEP)
    assert store.release("k-2", tokens[2])
    assert store.forget_failure("k-1")
    store.settle("m")
    assert list(store.records()) == []
    client.config_set("maxmemory", "0")
    assert claim(store, "k-0").outcome == "1"


@pytest.mark.parametrize("command", ["set", "rpop", "get"])
def test_transaction_on_full_redis_writes_neither(
    store: RedisStore, client: Any, command: str
) -> None:
    """Whether Redis allows the command itself when full, or not."""
    client.rpush("list", "a")
    transaction = store.begin("k", claim(store).token)
    arguments = {"set": ("x", "1"), "rpop": ("list",), "get": ("x",)}[command]
    getattr(transaction.handle, command)(*arguments)
    fill(client)
    with pytest.raises(StoreUnavailableError, match="OutOfMemoryError"):
        transaction.commit("1", keep=KEEP)
    client.config_set("maxmemory", "0")
    assert claim(store).state is State.RUNNING
    assert (client.exists("x"), client.exists("list")) == (0, 1)


# Late.


class LateAnswers:
    """Between client and server: some answers come when the client has given up."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lost = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._upstream))
                self._open += [near, far]
                threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and self.lost > 0:
                    self.lost -= 1
                    break
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def late(redis_server: RedisServer) -> Iterator[LateAnswers]:
    made = LateAnswers(redis_server.port)
    yield made
    made.close()


@pytest.fixture
def unsure(late: LateAnswers) -> Iterator[RedisStore]:
    made = RedisStore(f"redis://127.0.0.1:{late.port}/0", timeout=5.0)
    list(made.records())  # connected, and no answer lost for it
    yield made
    made.close()


def test_delivery_counts_once(unsure: RedisStore, late: LateAnswers) -> None:
    unsure.delivered("other", keep=KEEP)
    late.lost = 1
    assert unsure.delivered("m", keep=KEEP) == 1
    assert late.lost == 0
    assert unsure.delivered("m", keep=KEEP) == 2


def test_message_with_one_delivery_runs(unsure: RedisStore, late: LateAnswers) -> None:
    ran: list[Any] = []
    handler: Any = consumer(parking=unsure, key="id", function_id="f", max_deliveries=1)(ran.append)
    handler({"id": 0})
    late.lost = 1
    handler({"id": 1})
    assert ran == [{"id": 0}, {"id": 1}]


OPERATIONS: dict[str, tuple[Callable[[RedisStore, Any], Any], Any]] = {
    "prepare": (lambda store, at: store.prepare("m", at["revision"]), 2),
    "remove": (lambda store, at: store.remove("m", at["revision"]), True),
    "release": (lambda store, at: store.release("k", at["token"]), True),
    "finish": (lambda store, at: store.finish("k", at["token"], "1", keep=KEEP), True),
    "forget_failure": (lambda store, at: store.forget_failure("f"), True),
    "note": (lambda store, at: store.note("m", {"n": 2}, parked=True, keep=KEEP), None),
    "settle": (lambda store, at: store.settle("m"), None),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_that_was_done_says_so(unsure: RedisStore, late: LateAnswers, name: str) -> None:
    ask, expected = OPERATIONS[name]
    unsure.delivered("m", keep=KEEP)
    unsure.note("m", {"n": 1}, parked=True, keep=KEEP)
    (record,) = unsure.records()
    failed = claim(unsure, "f")
    unsure.finish("f", failed.token, "no", failed=True, keep=KEEP)
    at = {"revision": record.revision, "token": claim(unsure).token}
    late.lost = 1
    assert ask(unsure, at) == expected
    assert late.lost == 0
    revisions = [one.revision for one in unsure.records()]
    assert revisions == {"prepare": [2], "note": [2], "remove": [], "settle": []}.get(name, [1])


def test_second_copy_of_request_does_nothing(store: RedisStore, client: Any) -> None:
    """A server that was stalled runs both copies, the second after what came next."""
    sent: list[tuple[list[str], tuple[Any, ...]]] = []
    script = store._scripts["note"]

    def recording(*, keys: list[str], args: tuple[Any, ...]) -> Any:
        sent.append((keys, args))
        return script(keys=keys, args=args)

    store._scripts["note"] = recording
    store.note("m", {}, parked=True, keep=KEEP)
    (record,) = store.records()
    assert store.remove("m", record.revision)
    keys, args = sent[0]
    script(keys=keys, args=args)
    assert list(store.records()) == []


def test_requests_leave_nothing_behind_for_long(store: RedisStore, client: Any) -> None:
    store.delivered("m", keep=KEEP)
    names = client.keys("*:request:*")
    assert len(names) == 1
    assert 0 < client.pttl(names[0]) <= 60_000


def test_every_script_that_changes_twice_knows_its_request() -> None:
    # The first three by their nonce and token; what is forgotten twice is forgotten.
    known = {"claim", "renew", "finish", "forget_due"}
    for name, text in redis_scripts.SCRIPTS.items():
        assert ("answered(" in text) is (name not in known), name


# Refused.


def test_end_that_was_refused_is_no_success(store: RedisStore, client: Any) -> None:
    token = claim(store).token
    transaction = store.begin("k", token)
    transaction.handle.get("x")
    client.config_set("min-replicas-to-write", "1")
    with pytest.raises(StoreUnavailableError, match="NOREPLICAS"):
        transaction.commit("1", keep=KEEP)
    client.config_set("min-replicas-to-write", "0")
    assert claim(store).state is State.RUNNING
    assert transaction.commit("1", keep=KEEP)


def test_handler_hears_of_end_that_was_refused(store: RedisStore, client: Any) -> None:
    @idempotent(store, key="id", function_id="f")
    def handler(data: Any, transaction: Any) -> str:
        transaction.get("x")
        client.config_set("min-replicas-to-write", "1")
        return "done"

    call: Any = handler
    with pytest.raises(TransientError, match="STORE_UNAVAILABLE"):
        call({"id": 1})


@pytest.mark.parametrize("kind", ["key", "message"])
def test_what_can_never_succeed_is_not_unavailable(
    store: RedisStore, client: Any, kind: str
) -> None:
    client.set("iii-resilience:key:k", "somebody else's")
    client.set("iii-resilience:message:m", "somebody else's")
    with pytest.raises(StoreRefusedError, match="WRONGTYPE"):
        claim(store) if kind == "key" else store.delivered("m", keep=KEEP)
    with pytest.raises(StoreRefusedError):
        store.finish("k", 1, "1", keep=KEEP)


@pytest.mark.parametrize("decorate", ["idempotent", "consumer"])
def test_refusal_ends_as_permanent_failure(store: RedisStore, client: Any, decorate: str) -> None:
    ran: list[Any] = []
    handler: Any
    if decorate == "idempotent":
        handler = idempotent(store, key="id", function_id="f")(ran.append)
    else:
        handler = consumer(parking=store, key="id", function_id="f")(ran.append)
    client.config_set("maxmemory", "0")
    client.acl_setuser(
        "default", enabled=True, nopass=True, commands=["+@all", "-evalsha", "-eval"]
    )
    with pytest.raises(PermanentError) as caught:
        handler({"id": 1})
    assert caught.value.code == "STORE_REFUSED"
    assert ran == []


def test_unknown_command_in_transaction_is_handlers_error(store: RedisStore, client: Any) -> None:
    transaction = store.begin("k", claim(store).token)
    transaction.handle.execute_command("NOSUCH", "x")
    transaction.handle.incr("effects")
    with pytest.raises(redis.ResponseError, match="unknown command"):
        transaction.commit("1", keep=KEEP)
    assert client.exists("effects") == 0
    assert claim(store).state is State.RUNNING


@pytest.mark.parametrize(
    "answer", ["LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF"]
)
def test_what_passes_is_unavailable(store: RedisStore, answer: str) -> None:
    def refuses(**_: Any) -> Any:
        raise redis.ResponseError(f"{answer} for a moment")

    store._scripts["claim"] = refuses
    with pytest.raises(StoreUnavailableError, match=answer):
        claim(store)

"""`@idempotent`: a key runs once, and everybody who comes with it gets an answer."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import inspect
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydantic
import pytest
from support.sqlite_files import opened
from support.waiting import until

from iii_resilience import classify, resilient
from iii_resilience.core.codes.model import Category
from iii_resilience.handling import (
    AuthError,
    HandlerError,
    PayloadError,
    PermanentError,
    TransientError,
    idempotent,
)
from iii_resilience.handling.decorators import idempotency
from iii_resilience.sdk.propagation import PAYLOAD_FIELD, CallContext, InboundCall, handling
from iii_resilience.stores import MemoryStore, SqliteStore, Store, StoreUnavailableError
from iii_resilience.testing import LoopbackEngine

Handler = Callable[[Any], Any]
ID = "orders::save"
# For what happens before a store is called, or with one that the test makes itself.
one_store = pytest.mark.parametrize("store", ["memory"], indirect=True)


def run(handler: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a plain or an asynchronous handler."""
    result = handler(*args, **kwargs)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


@pytest.fixture(params=["plain", "async"])
def made(request: pytest.FixtureRequest, store: Store) -> Callable[..., Any]:
    """Makes an idempotent handler, plain or asynchronous, that does what a function says."""

    def make(does: Handler, **options: Any) -> Any:
        settings: dict[str, Any] = {"key": "order_id", "function_id": ID, **options}
        decorate = idempotent(settings.pop("store", store), **settings)
        if request.param == "plain":
            return decorate(does)

        async def handler(data: Any) -> Any:
            await asyncio.sleep(0)
            return await asyncio.to_thread(does, data)

        return decorate(handler)

    return make


def counting(ran: list[Any]) -> Handler:
    """A handler that says how often it ran."""

    def handler(data: Any) -> int:
        ran.append(data)
        return len(ran)

    return handler


def failing(error: BaseException, ran: list[Any]) -> Handler:
    def handler(data: Any) -> Any:
        ran.append(data)
        raise error

    return handler


def test_key_runs_once_and_repeat_gets_result(made: Callable[..., Any]) -> None:
    ran: list[Any] = []
    handler = made(counting(ran))
    assert run(handler, {"order_id": "o-1"}) == 1
    assert run(handler, {"order_id": "o-1"}) == 1
    assert run(handler, {"order_id": "o-2"}) == 2
    assert len(ran) == 2


def test_keys_of_two_functions_never_meet(store: Store) -> None:
    def name(data: Any) -> str:
        return "a" if not ran else "b"

    ran: list[Any] = []
    first = idempotent(store, key="id", function_id="a")(name)
    second = idempotent(store, key="id", function_id="b")(name)
    assert first({"id": 1}) == "a"
    ran.append(1)
    assert (first({"id": 1}), second({"id": 1})) == ("a", "b")


def test_concurrent_repeat_waits_for_result(made: Callable[..., Any]) -> None:
    ran: list[Any] = []

    def slow(data: Any) -> Any:
        ran.append(data)
        time.sleep(0.3)
        return len(ran)

    handler = made(slow)
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: run(handler, {"order_id": 1}), range(5)))
    assert answers == [1] * 5
    assert len(ran) == 1


def test_repeat_that_waited_too_long_is_transient_error(
    made: Callable[..., Any],
) -> None:
    go_on, started = threading.Event(), threading.Event()

    def slow(data: Any) -> bool:
        started.set()
        return go_on.wait(30)

    handler = made(slow, wait=0.1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, handler, {"order_id": 1})
        assert started.wait(30)
        with pytest.raises(TransientError) as caught:
            run(handler, {"order_id": 1})
        go_on.set()
        assert first.result(30) is True
    assert caught.value.code == "IDEMPOTENCY_KEY_RUNNING"


def test_wait_ends_with_callers_time(made: Callable[..., Any]) -> None:
    go_on = threading.Event()
    started = threading.Event()

    def slow(data: Any) -> None:
        started.set()
        go_on.wait(30)

    handler = made(slow, wait=60.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, handler, {"order_id": 1})
        assert started.wait(30)
        with (
            handling(InboundCall(deadline_at=time.monotonic() + 0.1)),
            pytest.raises(TransientError, match="IDEMPOTENCY_KEY_RUNNING"),
        ):
            run(handler, {"order_id": 1})
        go_on.set()
        first.result(30)


@pytest.mark.parametrize("error", [TransientError("busy"), ConnectionError("gone")])
def test_transient_failure_frees_key(made: Callable[..., Any], error: Exception) -> None:
    ran: list[Any] = []
    handler = made(failing(error, ran))
    for _ in range(2):
        with pytest.raises(type(error)):
            run(handler, {"order_id": 1})
    assert len(ran) == 2


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        PermanentError("no", code="CARD_DECLINED"),
        PayloadError("bad"),
        AuthError("not you", retry_after=2.5),
    ],
)
def test_any_other_failure_is_stored(made: Callable[..., Any], error: Exception) -> None:
    ran: list[Any] = []
    handler = made(failing(error, ran))
    with pytest.raises(type(error)) as first:
        run(handler, {"order_id": 1})
    assert first.value is error
    with pytest.raises(HandlerError) as again:
        run(handler, {"order_id": 1})
    assert len(ran) == 1
    assert classify(again.value).category is classify(error).category
    if isinstance(error, HandlerError):
        assert str(again.value) == str(error)
    else:
        assert "secret" not in str(again.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_exit_frees_key(store: Store, error: BaseException) -> None:
    ran: list[Any] = []
    handler = idempotent(store, key="id", function_id=ID)(failing(error, ran))
    for _ in range(2):
        with pytest.raises(type(error)):
            handler({"id": 1})
    assert len(ran) == 2


async def test_cancelled_handler_frees_key(store: Store) -> None:
    ran: list[Any] = []

    @idempotent(store, key="id", function_id=ID)
    async def handler(data: Any) -> str:
        ran.append(data)
        if len(ran) == 1:
            await asyncio.sleep(60)
        return "done"

    task = asyncio.create_task(handler({"id": 1}))
    while not ran:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await handler({"id": 1}) == "done"


async def test_call_cancelled_while_it_claims_leaves_key_free() -> None:
    store = MemoryStore()
    store.blocking = True  # as a store on the network
    claiming, go_on = threading.Event(), threading.Event()
    original = store.claim

    def claim(*args: Any, **kwargs: Any) -> Any:
        claiming.set()
        assert go_on.wait(60)
        return original(*args, **kwargs)

    store.claim = claim  # type: ignore[method-assign]

    @idempotent(store, key="id", function_id=ID)
    async def handler(data: Any) -> str:
        return "done"

    task = asyncio.create_task(handler({"id": 1}))
    while not claiming.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The lease of the claim that was given up lasts 30 s.
    assert await asyncio.wait_for(handler({"id": 1}), 9) == "done"


def test_another_payload_under_the_same_key_is_refused(made: Callable[..., Any]) -> None:
    handler = made(lambda data: data["amount"])
    assert run(handler, {"order_id": 1, "amount": 5}) == 5
    with pytest.raises(PayloadError) as caught:
        run(handler, {"order_id": 1, "amount": 6})
    assert caught.value.code == "IDEMPOTENCY_KEY_REUSED"


def test_what_is_added_on_the_way_makes_no_other_payload(made: Callable[..., Any]) -> None:
    seen: list[Any] = []
    handler = made(counting(seen))
    first = {"order_id": 1, "_caller_worker_id": "w-1"}
    again = {
        "_caller_worker_id": "w-2",
        "order_id": 1,
        PAYLOAD_FIELD: CallContext(attempt=2).to_wire(),
    }
    assert run(handler, first) == run(handler, again) == 1
    assert seen == [first]


@one_store
@pytest.mark.parametrize(
    ("key", "payload", "code"),
    [
        ("order_id", {}, "IDEMPOTENCY_KEY_MISSING"),
        ("order_id", {"order_id": None}, "IDEMPOTENCY_KEY_MISSING"),
        ("order_id", {"order_id": ""}, "IDEMPOTENCY_KEY_MISSING"),
        ("order_id", [1], "IDEMPOTENCY_KEY_MISSING"),
        ("_caller_worker_id", {"_caller_worker_id": "w"}, "IDEMPOTENCY_KEY_MISSING"),
        (lambda data: data["a"]["b"], {"a": {}}, "IDEMPOTENCY_KEY_MISSING"),
        (lambda data: data["_caller_worker_id"], {"_caller_worker_id": "w"}, None),
        (None, {}, "IDEMPOTENCY_KEY_MISSING"),
        ("order_id", {"order_id": 1.5}, "IDEMPOTENCY_KEY_INVALID"),
        ("order_id", {"order_id": True}, "IDEMPOTENCY_KEY_INVALID"),
        ("order_id", {"order_id": ["x"]}, "IDEMPOTENCY_KEY_INVALID"),
    ],
)
def test_missing_key_is_payload_failure(
    made: Callable[..., Any], key: Any, payload: Any, code: str | None
) -> None:
    ran: list[Any] = []
    handler = made(ran.append, key=key)
    with pytest.raises(PayloadError) as caught:
        run(handler, payload)
    assert caught.value.code == (code or "IDEMPOTENCY_KEY_MISSING")
    assert classify(caught.value).category is Category.PAYLOAD
    assert ran == []


def test_number_and_its_text_are_two_keys(made: Callable[..., Any]) -> None:
    handler = made(lambda data: type(data["order_id"]).__name__)
    assert run(handler, {"order_id": 1}) == "int"
    assert run(handler, {"order_id": "1"}) == "str"


@pytest.mark.parametrize("way", ["payload", "metadata"])
def test_without_key_of_its_own_one_that_travelled_counts(
    made: Callable[..., Any], way: str
) -> None:
    ran: list[Any] = []
    handler = made(counting(ran), key=None)

    def call(key: str) -> Any:
        carried = CallContext(idempotency_key=key)
        if way == "payload":
            return run(handler, {"n": 1, PAYLOAD_FIELD: carried.to_wire()})
        with handling(InboundCall(carried=carried)):
            return run(handler, {"n": 1})

    assert [call("a"), call("a"), call("b")] == [1, 1, 2]
    assert ran == [{"n": 1}] * 2


def test_function_is_known_from_registration(store: Store) -> None:
    ran: list[Any] = []
    handler = idempotent(store, key="id")(counting(ran))
    with handling(InboundCall(function_id=ID)):
        assert handler({"id": 1}) == 1
    other = idempotent(store, key="id", function_id=ID)(counting(ran))
    assert other({"id": 1}) == 1
    with pytest.raises(PermanentError, match="FUNCTION_ID_UNKNOWN"):
        handler({"id": 2})


def test_what_a_handler_calls_does_not_share_its_keys(store: Store) -> None:
    helper = idempotent(store, key="id")(lambda data: "helped")

    @idempotent(store, key="id", function_id=ID)
    def handler(data: Any) -> Any:
        return helper(data)

    with pytest.raises(PermanentError, match="FUNCTION_ID_UNKNOWN"):
        handler({"id": 1})


# Leases.


def renewals(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What each renewal of a lease is answered with, from now on."""
    answers: list[bool] = []

    def noting(renew: Callable[..., Any], *, many: bool) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            answer = renew(*args, **kwargs)
            answers.extend(answer if many else [answer])
            return answer

        return noted

    monkeypatch.setattr(store, "renew", noting(store.renew, many=False))
    if hasattr(store, "renew_many"):
        monkeypatch.setattr(store, "renew_many", noting(store.renew_many, many=True))
    return answers


def test_lease_is_renewed_while_handler_runs(
    made: Callable[..., Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    go_on = threading.Event()
    renewed = renewals(store, monkeypatch)

    def slow(data: Any) -> int:
        ran.append(data)
        assert go_on.wait(120)
        return len(ran)

    handler = made(slow, lease=1.8, wait=0.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, handler, {"order_id": 1})
        try:
            until(lambda: len(renewed) >= 3)  # past the lease that was claimed
            with pytest.raises(TransientError, match="IDEMPOTENCY_KEY_RUNNING"):
                run(handler, {"order_id": 1})
        finally:
            go_on.set()
        assert first.result(60) == 1
    assert all(renewed)
    assert run(handler, {"order_id": 1}) == 1
    assert len(ran) == 1


def test_late_holder_cannot_overwrite_newer_result(
    made: Callable[..., Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the process were suspended.
    monkeypatch.setattr(store, "renew", lambda *args, **kwargs: True)
    monkeypatch.setattr(store, "renew_many", lambda renewals: [True] * len(renewals), raising=False)
    go_on, started = threading.Event(), threading.Event()
    ran: list[int] = []

    def handler_of(data: Any) -> str:
        ran.append(1)
        if len(ran) == 1:
            started.set()
            go_on.wait(30)
            return "old"
        return "new"

    handler = made(handler_of, lease=0.1, wait=30.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, handler, {"order_id": 1})
        assert started.wait(30)
        assert run(handler, {"order_id": 1}) == "new"
        go_on.set()
        with pytest.raises(TransientError, match="IDEMPOTENCY_LEASE_LOST"):
            first.result(30)
    assert run(handler, {"order_id": 1}) == "new"


# Results.


class Order(pydantic.BaseModel):
    """As a handler returns it."""

    model_config = pydantic.ConfigDict(populate_by_name=True)
    order_id: str = pydantic.Field(alias="orderId")
    note: str | None = None
    at: dt.date | None = None


@dataclasses.dataclass
class Line:
    item: str
    order: Order | None = None


@pytest.mark.parametrize(
    "result",
    [
        Order(orderId="o-1"),
        Line("a"),
        Line("a", Order(orderId="o-1")),
        {"lines": [Line("a")], "n": 1},
    ],
    ids=["model", "dataclass", "nested", "inside"],
)
def test_repeat_gets_what_wire_carries(
    engine: LoopbackEngine, connect: Callable[..., Any], tmp_path: Path, result: Any
) -> None:
    ran: list[Any] = []

    @idempotent(SqliteStore(tmp_path / "store.db"), key="id")
    def handler(data: Any) -> Any:
        ran.append(data)
        return result

    worker, caller = resilient(connect("worker")), connect("caller")
    worker.register_function("t::once", handler)
    engine.wait_registered("t::once")
    request = {"function_id": "t::once", "payload": {"id": 1}}
    first = caller.trigger(request)
    assert caller.trigger(request) == first
    assert isinstance(first, dict)
    assert len(ran) == 1


@one_store
@pytest.mark.parametrize(
    "result",
    [
        object(),
        float("nan"),
        {1, 2},
        Line(item=float("inf")),  # type: ignore[arg-type]
        "\ud800",
        1 << 70,
        Order(orderId="o-1", at=dt.date(2026, 1, 1)),  # the SDK does not send it either
    ],
)
def test_unstorable_result_is_failure_and_not_run_again(
    made: Callable[..., Any], result: Any
) -> None:
    ran: list[Any] = []

    def returning(data: Any) -> Any:
        ran.append(data)
        return result

    handler = made(returning)
    for _ in range(2):
        with pytest.raises(PayloadError, match="invalid_payload"):
            run(handler, {"order_id": 1})
    assert len(ran) == 1


def test_results_are_forgotten_after_their_time(made: Callable[..., Any]) -> None:
    ran: list[Any] = []
    handler = made(counting(ran), ttl=0.2)
    assert run(handler, {"order_id": 1}) == 1
    time.sleep(0.4)
    assert run(handler, {"order_id": 1}) == 2


# A store that is away.


class Away(MemoryStore):
    """A store whose operations fail as long as a test wants."""

    def __init__(self, *away: str) -> None:
        super().__init__()
        self.away = set(away)

    def _change(self, kind: str, row_id: str, rule: Any, *, lasting: bool = False) -> Any:
        name = rule.__qualname__.partition(".")[0]
        if name in self.away:
            raise StoreUnavailableError(f"{name} is away")
        return super()._change(kind, row_id, rule, lasting=lasting)


@one_store
def test_store_that_is_down_lets_nothing_run(made: Callable[..., Any]) -> None:
    ran: list[Any] = []
    handler = made(ran.append, store=Away("claim"))
    with pytest.raises(TransientError) as caught:
        run(handler, {"order_id": 1})
    assert caught.value.code == "STORE_UNAVAILABLE"
    assert classify(caught.value).category is Category.TRANSIENT
    assert ran == []


@one_store
def test_store_that_is_away_for_moment_gets_result_later(
    made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_RECORD_WITHIN", 60.0)
    left = [3]  # times it is away

    class Back(Away):
        def _change(self, kind: str, row_id: str, rule: Any, *, lasting: bool = False) -> Any:
            try:
                return super()._change(kind, row_id, rule, lasting=lasting)
            except StoreUnavailableError:
                left[0] -= 1
                if not left[0]:
                    self.away.clear()
                raise

    handler = made(lambda data: "done", store=Back("finish"))
    assert run(handler, {"order_id": 1}) == "done"
    assert left == [0]
    assert run(handler, {"order_id": 1}) == "done"


@one_store
def test_result_that_could_not_be_kept_is_transient_error(
    made: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_RECORD_WITHIN", 0.3)
    store = Away("finish", "release")
    handler = made(lambda data: "secret", store=store)
    with (
        caplog.at_level(logging.WARNING, "iii_resilience"),
        pytest.raises(TransientError, match="its outcome is not stored"),
    ):
        run(handler, {"order_id": "secret"})
    assert caplog.records
    assert "secret" not in caplog.text


# Transactions.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "effects.db"
    with opened(path) as connection:
        connection.execute("CREATE TABLE effects (id TEXT, n INTEGER CHECK (n < 100))")
    return path


def effects(path: Path) -> list[tuple[Any, ...]]:
    with opened(path) as connection:
        return connection.execute("SELECT id FROM effects").fetchall()


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_effect_in_stores_transaction_is_committed_with_key(file: Path, kind: str) -> None:
    store = SqliteStore(file)

    def write(data: Any, transaction: sqlite3.Connection) -> str:
        transaction.execute("INSERT INTO effects VALUES (?, ?)", (data["id"], data["n"]))
        if data["n"] == 13:
            raise TransientError("unlucky")
        return "written"

    async def write_async(data: Any, transaction: sqlite3.Connection) -> str:
        await asyncio.sleep(0)
        return write(data, transaction)

    decorate = idempotent(store, key="id", function_id=ID)
    handler: Any = decorate(write if kind == "plain" else write_async)
    assert list(inspect.signature(handler).parameters) == ["data"]
    assert run(handler, {"id": "a", "n": 1}) == "written"
    assert run(handler, {"id": "a", "n": 1}) == "written"
    with pytest.raises(TransientError):
        run(handler, {"id": "b", "n": 13})
    assert effects(file) == [("a",)]
    for _ in range(2):
        with pytest.raises((sqlite3.IntegrityError, PermanentError)):
            run(handler, {"id": "c", "n": 100})
    assert effects(file) == [("a",)]


def test_many_transactions_at_once_are_all_written_once(file: Path) -> None:
    store = SqliteStore(file, busy_timeout=60.0)

    def write(data: Any, *, transaction: sqlite3.Connection) -> int:
        transaction.execute("INSERT INTO effects VALUES (?, 1)", (data["id"],))
        return int(data["id"])

    handler: Any = idempotent(store, key="id", function_id=ID, wait=60.0)(write)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: handler({"id": n % 20}), range(60)))
    assert answers == [n % 20 for n in range(60)]
    assert sorted(int(one) for (one,) in effects(file)) == list(range(20))


def test_who_has_lost_his_lease_writes_nothing(file: Path) -> None:
    store = SqliteStore(file)
    original = store.begin

    def late(slot: str, token: int) -> Any:
        if not raced:
            raced.append(True)
            assert other({"id": "a"}) == "other"
        return original(slot, token)

    raced: list[bool] = []
    store.begin = late  # type: ignore[method-assign]

    def write(data: Any, transaction: sqlite3.Connection) -> str:
        transaction.execute("INSERT INTO effects VALUES (?, 1)", (data["id"],))
        return "first"

    def write_other(data: Any, transaction: sqlite3.Connection) -> str:
        transaction.execute("INSERT INTO effects VALUES ('other', 1)")
        return "other"

    decorate = idempotent(store, key="id", function_id=ID, lease=0.05, wait=30.0)
    first: Any = decorate(write)
    other: Any = decorate(write_other)
    with pytest.raises(TransientError, match="IDEMPOTENCY_LEASE_LOST"):
        first({"id": "a"})
    assert effects(file) == [("other",)]
    assert first({"id": "a"}) == "other"


def test_memory_store_has_no_transaction_to_give() -> None:
    with pytest.raises(TypeError, match="a MemoryStore has no transaction to give"):
        idempotent(MemoryStore(), key="id")(lambda data, transaction: None)


# What the SDK sees.


def test_wrapper_looks_like_handler(store: Store) -> None:
    @idempotent(store, key="id", function_id=ID)
    def save(data: dict[str, int], metadata: Any = None) -> str:
        """Saves."""
        return f"{data['id']} {metadata}"

    @idempotent(store, key="id", function_id="async")
    async def save_async(data: Any) -> None: ...

    assert (save.__name__, save.__doc__) == ("save", "Saves.")
    assert list(inspect.signature(save).parameters) == ["data", "metadata"]
    assert inspect.iscoroutinefunction(save_async)
    assert save({"id": 1}, {"m": 1}) == "1 {'m': 1}"
    assert save(data={"id": 2}, metadata="m") == "2 m"


def test_method_can_be_handler(store: Store) -> None:
    class Orders:
        def __init__(self) -> None:
            self.ran = 0

        @idempotent(store, key="id", function_id=ID)
        def save(self, data: Any) -> int:
            self.ran += 1
            return self.ran

    orders = Orders()
    assert orders.save({"id": 1}) == orders.save({"id": 1}) == orders.ran == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": 5}, TypeError, "idempotent: key must be the name of a payload field"),
        ({"key": ""}, TypeError, "idempotent: key must be"),
        ({"ttl": 0}, ValueError, "ttl"),
        ({"lease": -1}, ValueError, "lease"),
        ({"wait": float("nan")}, ValueError, "wait"),
    ],
)
def test_bad_options_are_refused_where_they_are_written(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        idempotent(MemoryStore(), **options)


def test_what_is_no_store_or_no_handler_is_refused() -> None:
    with pytest.raises(TypeError, match="the store must be one, got str"):
        idempotent("store.db")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="decorates a handler"):
        idempotent(MemoryStore(), key="id")(5)  # type: ignore[arg-type]


# Cancelled twice.


@pytest.mark.parametrize("held_up", ["claim", "begin", "rollback", "release"])
async def test_key_and_file_are_free_after_two_cancellations(file: Path, held_up: str) -> None:
    """Whatever was in a thread when they came."""
    store = SqliteStore(file)
    reached, go_on = threading.Event(), threading.Event()

    def slowly(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any, **kwargs: Any) -> Any:
            if name == held_up:
                reached.set()
                assert go_on.wait(30)
            return work(*args, **kwargs)

        return slow

    begin = store.begin

    def beginning(slot: str, token: int) -> Any:
        transaction = begin(slot, token)
        transaction.rollback = slowly("rollback", transaction.rollback)  # type: ignore[method-assign]
        return transaction

    for name, work in (("claim", store.claim), ("begin", beginning), ("release", store.release)):
        setattr(store, name, slowly(name, work))

    @idempotent(store, key="id", function_id=ID)
    async def handler(data: Any, transaction: sqlite3.Connection) -> str:
        transaction.execute("INSERT INTO effects VALUES ('a', 1)")
        if not go_on.is_set() and held_up in {"rollback", "release"}:
            raise TransientError("busy")
        return "done"

    call: Any = handler
    task = asyncio.create_task(call({"id": 1}))
    while not reached.is_set():
        await asyncio.sleep(0.005)
    for _ in range(3):
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.wait_for(call({"id": 1}), 8) == "done"
    assert effects(file) == [("a",)]

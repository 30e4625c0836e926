"""Exceptions that refuse attributes pass through everything as themselves."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from iii_resilience import (
    Backoff,
    Category,
    Reason,
    classify,
    iii_retry,
    register_exceptions,
    report_for,
    retrying,
)
from iii_resilience.core.classifiers import registered_exceptions as registered
from iii_resilience.core.classifiers.registered_exceptions import ExceptionRules
from iii_resilience.handling import consumer, idempotent
from iii_resilience.handling.hardening.harden import Hardener, Hardening
from iii_resilience.handling.hardening.running_handlers import Running
from iii_resilience.stores import MemoryStore, SqliteStore
from iii_resilience.telemetry import FailedCall
from iii_resilience.testing import fake_clock, no_sleep, retries_off

QUICK = Backoff(base=0, cap=1)


@dataclasses.dataclass(frozen=True)
class FrozenDataError(Exception):
    order: int = 3


@attrs.frozen
class FrozenSlotsError(Exception):
    order: int = 3


KINDS = [FrozenDataError, FrozenSlotsError]


@pytest.fixture(autouse=True)
def _transient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered._Registry, "code", ExceptionRules())
    register_exceptions(dict.fromkeys(KINDS, "transient"))


@pytest.mark.parametrize("kind", KINDS)
def test_nested_decorators_do_not_multiply(kind: type[Exception]) -> None:
    calls = []

    @iii_retry(idempotent=True, attempts=3, backoff=QUICK)
    def inner() -> None:
        calls.append(1)
        raise kind

    @iii_retry(idempotent=True, attempts=3, backoff=QUICK)
    def outer() -> None:
        inner()

    with pytest.raises(kind) as caught:
        outer()
    assert len(calls) == 3
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.ALREADY_RETRIED
    assert "iii-resilience: 1 attempt" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(AttributeError):
        caught.value.order = 4  # type: ignore[attr-defined]


def test_slots_exception_with_report_still_pickles() -> None:
    @iii_retry(idempotent=True, attempts=2, backoff=QUICK)
    def fails() -> None:
        raise FrozenSlotsError(7)

    with pytest.raises(FrozenSlotsError) as caught:
        fails()
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.order == 7


def plain(kind: type[Exception]) -> Callable[..., Any]:
    def handler(payload: Any) -> None:
        raise kind

    return handler


def asynchronous(kind: type[Exception]) -> Callable[..., Any]:
    async def handler(payload: Any) -> None:
        await asyncio.sleep(0)
        raise kind

    return handler


def run(handler: Callable[..., Any], payload: Any) -> None:
    result = handler(payload)
    if asyncio.iscoroutine(result):
        asyncio.run(result)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [plain, asynchronous])
def test_consumer_and_idempotent_pass_it_on(
    tmp_path: Path, kind: type[Exception], make: Callable[..., Any]
) -> None:
    store = SqliteStore(tmp_path / "keys.sqlite")
    guarded = idempotent(store, key="id", function_id="a::b")(make(kind))
    consuming = consumer(parking=store, key="id", function_id="a::b")(guarded)
    for handler in (guarded, consuming):
        for _ in range(2):  # transient: the key is free again, and nothing is parked
            with pytest.raises(kind) as caught:
                run(handler, {"id": "1"})
            assert classify(caught.value).category is Category.TRANSIENT
    store.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [plain, asynchronous])
async def test_hardened_handler_says_what_was_raised(
    kind: type[Exception], make: Callable[..., Any]
) -> None:
    hardened = Hardener(Hardening(send_stack_traces=True), Running()).harden("a::b", make(kind))
    with pytest.raises(kind):
        await hardened({})


class RaisingStore(MemoryStore):
    """A user's own store, with an exception of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error


@pytest.mark.parametrize("kind", KINDS)
def test_store_of_ones_own_raises_what_it_raises(kind: type[Exception]) -> None:
    handler = idempotent(RaisingStore(kind()), key="id", function_id="a::b")(plain(KeyError))
    with pytest.raises(kind):
        handler({"id": "1"})


@pytest.mark.parametrize("kind", KINDS)
def test_transaction_ends_with_handlers_exception(tmp_path: Path, kind: type[Exception]) -> None:
    store = SqliteStore(tmp_path / "keys.sqlite")

    @idempotent(store, key="id", function_id="a::b")
    def handler(payload: Any, transaction: Any) -> None:
        raise kind

    with pytest.raises(kind):
        handler({"id": "1"})
    store.close()


@pytest.mark.parametrize("kind", KINDS)
def test_span_of_fallback_passes_it_on(kind: type[Exception]) -> None:
    call = FailedCall("a::b", 0.0)
    with pytest.raises(kind), call.fallback("reroute", "c::d"):
        raise kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [fake_clock, no_sleep, retries_off])
def test_test_helpers_pass_it_on(kind: type[Exception], block: Callable[[], Any]) -> None:
    with pytest.raises(kind), block():
        raise kind


@pytest.mark.parametrize("kind", KINDS)
def test_loop_passes_it_on(kind: type[Exception]) -> None:
    tries = []

    def block() -> None:
        for attempt in retrying(idempotent=True, attempts=3, backoff=QUICK):
            with attempt:
                tries.append(attempt.number)
                raise kind

    with pytest.raises(kind):
        block()
    assert tries == [1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
async def test_async_loop_passes_it_on(kind: type[Exception]) -> None:
    tries = []

    async def block() -> None:
        async for attempt in retrying(idempotent=True, attempts=3, backoff=QUICK):
            with attempt:
                tries.append(attempt.number)
                raise kind

    with pytest.raises(kind):
        await block()
    assert tries == [1, 2, 3]

"""A queue provider that restarts: enqueued messages wait for it, as calls wait for functions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.real_sdk import InvocationError
from support.waiting import until

from iii_resilience import Enqueue, Enqueued, Reason, RetryPolicy, hint_for, report_for
from iii_resilience.client.readiness import PROVIDER
from iii_resilience.client.resilient import Resilient
from iii_resilience.handling import PayloadError, TransientError
from iii_resilience.testing import AnswerError, LoopbackEngine

ENQUEUE = {
    "function_id": "t::echo",
    "payload": {"n": 1},
    "action": {"type": "enqueue", "queue": "later"},
}
PROVIDER_ID = "engine::queue::enqueue"
INFO = "engine::functions::info"
STOPPED = AnswerError("invocation_stopped", "Invocation stopped")
HAND_OVER = RetryPolicy(attempts=1, ready_timeout=3.0, fallback=Enqueue("later"))


class Provider:
    """A queue provider that can leave and come back."""

    def __init__(self, engine: LoopbackEngine, connect: Any) -> None:
        self._engine = engine
        self._connect = connect
        self._count = 0
        self.taken: list[Any] = []
        self.fails: list[Exception] = []

    def start(self) -> None:
        self._count += 1
        self._client = self._connect(f"provider-{self._count}")
        self._client.register_function(PROVIDER_ID, self._take)
        self._engine.wait_registered(PROVIDER_ID)

    def _take(self, data: Any) -> None:
        if self.fails:
            raise self.fails.pop()
        self.taken.append(data["data"]["n"])

    def stop(self) -> None:
        self._client.shutdown()
        until(lambda: not self._engine.registered(PROVIDER_ID))

    def back_in(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self.start)
        timer.start()
        return timer


@pytest.fixture
def engine() -> Iterator[LoopbackEngine]:
    with LoopbackEngine(queue_worker=False) as running:
        yield running


@pytest.fixture
def provider(engine: LoopbackEngine, connect: Any) -> Provider:
    made = Provider(engine, connect)
    made.start()
    return made


def see(caller: Resilient) -> None:
    """Enqueue once, after which the provider is known to this client."""
    caller.trigger(ENQUEUE)
    until(lambda: PROVIDER in caller._caller.ready.known)


class TestEnqueue:
    def test_it_waits_for_provider_that_restarts(
        self, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        with pytest.raises(InvocationError, match="enqueue_error"):
            caller.trigger(ENQUEUE)  # what the client knew was out of date, as with a function
        timer = provider.back_in(0.3)
        assert caller.trigger(ENQUEUE)["messageReceiptId"]
        timer.join()
        assert provider.taken == [1, 1]

    async def test_the_same_for_coroutines(self, provider: Provider, caller: Resilient) -> None:
        see(caller)
        provider.stop()
        timer = provider.back_in(0.3)
        assert await caller.trigger_async(ENQUEUE, idempotent=True)
        timer.join()

    def test_idempotent_one_that_falls_into_gap_is_repeated(
        self, engine: LoopbackEngine, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        timer = provider.back_in(0.3)
        caller.trigger(ENQUEUE, idempotent=True)
        timer.join()
        assert len(engine.calls("t::echo")) == 3

    def test_gap_is_transient_and_proves_nothing_ran(
        self, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        with pytest.raises(InvocationError) as caught:
            caller.trigger(ENQUEUE)
        report = report_for(caught.value)
        assert report is not None
        failure = report.attempts[0].failure
        assert (failure.category, report.execution) == ("transient", "not_executed")
        assert "start it again" in failure.remedy

    def test_after_reconnection_it_waits_too(
        self, engine: LoopbackEngine, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        epoch = caller._connection.epoch
        engine.disconnect("caller")
        until(lambda: caller._connection.epoch >= epoch + 2)
        timer = provider.back_in(0.3)
        caller.trigger(ENQUEUE)
        timer.join()
        assert provider.taken == [1, 1]

    def test_it_waits_no_longer_than_ready_timeout(
        self, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        policy = RetryPolicy(ready_timeout=0.3)
        with pytest.raises(InvocationError):
            caller.trigger(ENQUEUE, policy=policy)
        began = time.monotonic()
        with pytest.raises(InvocationError, match="No queue provider"):
            caller.trigger(ENQUEUE, policy=policy)
        assert 0.3 <= time.monotonic() - began < 8.0

    def test_retry_whose_provider_stays_away_gives_up(
        self, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        policy = RetryPolicy(ready_timeout=0.3)
        with pytest.raises(InvocationError) as caught:
            caller.trigger(ENQUEUE, idempotent=True, policy=policy)
        report = report_for(caught.value)
        assert report is not None
        assert report.reason is Reason.NOT_READY

    def test_provider_never_there_fails_at_once(
        self, engine: LoopbackEngine, caller: Resilient
    ) -> None:
        with pytest.raises(InvocationError, match="No queue provider") as caught:
            caller.trigger(ENQUEUE, idempotent=True)
        report = report_for(caught.value)
        assert report is not None
        assert (report.reason, report.attempts[0].failure.category) == (
            Reason.NOT_RETRYABLE,
            "permanent",
        )
        assert len(report.attempts) == 1
        assert engine.calls(INFO) == ()
        assert hint_for(caught.value) is not None

    def test_success_asks_for_provider_once(
        self, engine: LoopbackEngine, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        for _ in range(5):
            caller.trigger(ENQUEUE)
        assert len(engine.calls(INFO)) == 1

    def test_engine_with_queue_of_its_own_is_waited_for_by_none(
        self, engine: LoopbackEngine, provider: Provider, caller: Resilient
    ) -> None:
        """It takes messages, and lists no provider."""
        engine.inject(INFO, AnswerError("NOT_FOUND", "Function 'x' is not registered."))
        caller.trigger(ENQUEUE)
        until(lambda: len(engine.calls(INFO)) == 1)
        time.sleep(0.1)
        assert not caller._caller.ready.provider_seen
        caller.trigger(ENQUEUE)
        time.sleep(0.2)
        assert len(engine.calls(INFO)) == 1

    def test_typed_error_of_provider_is_read_as_one(
        self, engine: LoopbackEngine, provider: Provider, caller: Resilient
    ) -> None:
        provider.fails = [TransientError("busy", code="BUSY", retry_after=0.01)]
        caller.trigger(ENQUEUE, idempotent=True)
        assert provider.taken == [1]
        provider.fails = [PayloadError("no such field", code="NO_FIELD")]
        with pytest.raises(InvocationError, match="enqueue_error") as caught:
            caller.trigger(ENQUEUE, idempotent=True)
        report = report_for(caught.value)
        assert report is not None
        failure = report.attempts[0].failure
        assert (report.reason, failure.category) == (Reason.NOT_RETRYABLE, "payload")


class TestHandOver:
    @pytest.fixture(autouse=True)
    def function_that_stops(self, engine: LoopbackEngine, target: Any) -> None:
        target.register_function("t::echo", lambda data: data)
        engine.wait_registered("t::echo")
        engine.inject("t::echo", STOPPED, times=None)

    def hand_over(self, caller: Resilient) -> Any:
        return caller.trigger(
            {"function_id": "t::echo", "payload": {"n": 2}},
            idempotent=True,
            policy=HAND_OVER,
            accept_enqueued=True,
        )

    def test_it_falls_into_gap_and_is_sent_again(
        self, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        timer = provider.back_in(0.3)
        assert isinstance(self.hand_over(caller), Enqueued)
        timer.join()
        assert provider.taken == [1, 2]

    def test_it_waits_for_provider_known_to_be_away(
        self, engine: LoopbackEngine, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        caller._caller.ready.invalidate(PROVIDER)
        timer = provider.back_in(0.3)
        assert isinstance(self.hand_over(caller), Enqueued)
        timer.join()
        assert [call.action for call in engine.calls("t::echo")].count("enqueue") == 2

    def test_first_one_makes_provider_known(self, provider: Provider, caller: Resilient) -> None:
        assert isinstance(self.hand_over(caller), Enqueued)
        until(lambda: caller._caller.ready.provider_seen)

    def test_provider_that_stays_away_fails_within_ready_timeout(
        self, provider: Provider, caller: Resilient
    ) -> None:
        see(caller)
        provider.stop()
        began = time.monotonic()
        with pytest.raises(InvocationError, match="invocation_stopped") as caught:
            self.hand_over(caller)
        assert 3.0 <= time.monotonic() - began < 25.0
        (note,) = caught.value.__notes__
        assert "the fallback to queue 'later' failed too: enqueue_error" in note

    def test_provider_never_there_fails_at_once(
        self, engine: LoopbackEngine, provider: Provider, caller: Resilient
    ) -> None:
        provider.stop()
        with pytest.raises(InvocationError, match="invocation_stopped"):
            self.hand_over(caller)
        asked = [each.data["function_ids"] for each in engine.calls(INFO)]  # it waits by these
        assert asked == [["t::echo"]]

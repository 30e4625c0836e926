"""Testing without waiting: the fake clock, with freezegun and without, and the two switches."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tenacity
from freezegun import freeze_time

from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    CircuitOpenError,
    Reason,
    RetryPolicy,
    iii_retry,
    report_for,
    retrying,
)
from iii_resilience.testing import fake_clock, no_sleep, retries_off

SLOW = RetryPolicy(
    attempts=100,
    deadline=60.0,
    budget=None,
    backoff=Backoff(base=10.0, cap=10.0, throttled_base=10.0, jitter="none"),
)


def reason(error: BaseException) -> Reason:
    report = report_for(error)
    assert report is not None
    return report.reason


class TestFakeClock:
    def test_delays_take_no_time_and_are_noted(self) -> None:
        @iii_retry(idempotent=True, policy=SLOW)
        def function() -> None:
            raise ConnectionResetError

        began = time.perf_counter()
        with fake_clock() as clock, pytest.raises(ConnectionResetError) as caught:
            function()
        assert time.perf_counter() - began < 5
        assert clock.slept == [10.0] * 5
        assert reason(caught.value) is Reason.DEADLINE

    async def test_the_same_for_coroutines(self) -> None:
        @iii_retry(idempotent=True, policy=SLOW)
        async def function() -> None:
            raise ConnectionResetError

        with fake_clock() as clock, pytest.raises(ConnectionResetError):
            await function()
        assert clock.slept == [10.0] * 5

    def test_and_for_loops(self) -> None:
        def block() -> None:
            for attempt in retrying(idempotent=True, policy=SLOW):
                with attempt:
                    raise ConnectionResetError

        with fake_clock() as clock, pytest.raises(ConnectionResetError):
            block()
        assert clock.slept == [10.0] * 5

    async def test_and_for_async_loops(self) -> None:
        async def block() -> None:
            async for attempt in retrying(idempotent=True, policy=SLOW):
                with attempt:
                    raise ConnectionResetError

        with fake_clock() as clock, pytest.raises(ConnectionResetError):
            await block()
        assert clock.slept == [10.0] * 5

    def test_time_can_be_let_pass_by_hand(self) -> None:
        policy = RetryPolicy(attempts=1, breaker=Breaker(min_calls=1, open=30.0, probes=1))

        @iii_retry(policy=policy)
        def function(*, fails: bool) -> str:
            if fails:
                raise ConnectionResetError
            return "done"

        with fake_clock() as clock:
            with pytest.raises(ConnectionResetError):
                function(fails=True)
            clock.advance(29.0)
            with pytest.raises(CircuitOpenError):
                function(fails=False)
            clock.advance(1.5)
            assert function(fails=False) == "done"

    def test_it_does_not_go_backwards(self) -> None:
        with fake_clock() as clock, pytest.raises(ValueError, match="forwards"):
            clock.advance(-1)

    def test_only_clock_reads_time_in_retry_core(self) -> None:
        code = (
            "import sys, time\n"
            "from iii_resilience import iii_retry, retrying\n"
            "list(retrying(idempotent=True))\n"
            "print(*sorted(name for name, module in sys.modules.items()\n"
            "    if name.startswith('iii_resilience') and vars(module).get('time') is time))"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert ran.stderr == ""
        # A book notes when it got another policy set; a report takes the time as an argument, and
        # so do effects and spans what they sleep and when they start. Parkings are no calls.
        assert ran.stdout.split() == [
            "iii_resilience.config.book",
            "iii_resilience.core.effects",
            "iii_resilience.core.report",
            "iii_resilience.telemetry.parkings",
            "iii_resilience.telemetry.spans",
        ]

    def test_afterwards_everything_is_as_before(self) -> None:
        with fake_clock():
            pass
        began = time.monotonic()
        errors = [ConnectionResetError()]

        @iii_retry(idempotent=True, wait=tenacity.wait_fixed(0.02))
        def function() -> None:
            if errors:
                raise errors.pop()

        function()
        assert time.monotonic() - began >= 0.02


class TestWithFreezegun:
    def test_deadline_ends_retries(self) -> None:
        @iii_retry(idempotent=True, policy=SLOW)
        def function() -> None:
            raise ConnectionResetError

        with (
            freeze_time("2026-01-01") as frozen,
            fake_clock(frozen) as clock,
            pytest.raises(ConnectionResetError) as caught,
        ):
            function()
        assert clock.slept == [10.0] * 5
        assert reason(caught.value) is Reason.DEADLINE

    async def test_deadline_ends_retries_of_coroutines(self) -> None:
        @iii_retry(idempotent=True, policy=SLOW)
        async def function() -> None:
            raise ConnectionResetError

        with (
            freeze_time("2026-01-01", real_asyncio=True) as frozen,
            fake_clock(frozen) as clock,
            pytest.raises(ConnectionResetError),
        ):
            await function()
        assert clock.slept == [10.0] * 5

    def test_slow_attempt_uses_deadline_up(self) -> None:
        with freeze_time("2026-01-01") as frozen, fake_clock(frozen) as clock:
            calls = 0

            @iii_retry(idempotent=True, policy=SLOW)
            def function() -> None:
                nonlocal calls
                calls += 1
                frozen.tick(45)
                raise ConnectionResetError

            with pytest.raises(ConnectionResetError):
                function()
        assert (calls, clock.slept) == (2, [10.0])

    def test_budget_refills_with_time(self) -> None:
        budget = Budget(ratio=0.0, burst=1, min_per_second=0.1)
        policy = RetryPolicy(attempts=2, budget=budget, backoff=Backoff(base=0.0))

        @iii_retry(idempotent=True, policy=policy)
        def function() -> None:
            raise ConnectionResetError

        def ends() -> Reason:
            with pytest.raises(ConnectionResetError) as caught:
                function()
            return reason(caught.value)

        with freeze_time("2026-01-01") as frozen:
            assert [ends(), ends()] == [Reason.EXHAUSTED, Reason.BUDGET_EXHAUSTED]
            frozen.tick(12)
            assert [ends(), ends()] == [Reason.EXHAUSTED, Reason.BUDGET_EXHAUSTED]

    def test_breaker_forgets_what_left_its_window(self) -> None:
        policy = RetryPolicy(attempts=1, breaker=Breaker(min_calls=2, window=30.0, open=10.0))

        @iii_retry(policy=policy)
        def function() -> None:
            raise ConnectionResetError

        with freeze_time("2026-01-01") as frozen:
            for _ in range(3):
                with pytest.raises(ConnectionResetError):
                    function()
                frozen.tick(40)
            with pytest.raises(ConnectionResetError):
                function()
            with pytest.raises(ConnectionResetError):
                function()
            with pytest.raises(CircuitOpenError):
                function()


class TestNoSleep:
    def test_delays_are_noted_and_not_slept(self) -> None:
        errors = [ConnectionResetError() for _ in range(3)]

        @iii_retry(idempotent=True, wait=tenacity.wait_fixed(1000), deadline=None)
        def function() -> str:
            if errors:
                raise errors.pop()
            return "done"

        with no_sleep() as clock:
            assert function() == "done"
        assert clock.slept == [1000.0] * 3


class TestRetriesOff:
    def test_every_call_has_one_attempt(self) -> None:
        calls = []

        @iii_retry(idempotent=True)
        def function() -> None:
            calls.append(1)
            raise ConnectionResetError

        with retries_off(), pytest.raises(ConnectionResetError) as caught:
            function()
        assert len(calls) == 1
        assert reason(caught.value) is Reason.EXHAUSTED

    def test_other_reasons_stay_what_they_are(self) -> None:
        @iii_retry
        def function() -> None:
            raise ValueError

        with retries_off(), pytest.raises(ValueError) as caught:
            function()
        assert reason(caught.value) is Reason.NOT_RETRYABLE


PLUGIN = """
import pytest
from iii_resilience import iii_retry

def make(failures):
    errors = [ConnectionResetError() for _ in range(failures)]
    @iii_retry(idempotent=True)
    def function():
        if errors:
            raise errors.pop()
        return "done"
    return function

def test_clock(fake_clock):
    before = fake_clock.now
    assert make(2)() == "done"
    assert fake_clock.now == pytest.approx(before + sum(fake_clock.slept))

def test_no_sleep(no_sleep):
    assert make(1)() == "done"
    assert len(no_sleep.slept) == 1

def test_off(retries_off):
    with pytest.raises(ConnectionResetError):
        make(1)()
"""


def test_plugin_has_them_as_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PLUGIN, encoding="utf-8")
    arguments: list[Any] = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", tmp_path]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert "3 passed" in result.stdout, result.stdout

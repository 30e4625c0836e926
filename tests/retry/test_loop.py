"""The loop `retrying`: a block of code that is run again, with ``for`` and ``async for``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import traceback
import weakref
from typing import TYPE_CHECKING, Any

import iii
import pytest
import tenacity
from support.paths import PACKAGE

from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    Bulkhead,
    CircuitOpenError,
    PolicyBook,
    Reason,
    RetryPolicy,
    RpcError,
    hint_for,
    iii_retry,
    report_for,
    retrying,
    use_policies,
)
from iii_resilience.retry.loop import RetryLoop
from iii_resilience.retry.policy_source import PolicySource

if TYPE_CHECKING:
    from conftest import FakeClock

QUICK = RetryPolicy(backoff=Backoff(base=0, throttled_base=0), budget=None)
LIBRARY = str(PACKAGE)


def stopped() -> Exception:
    error: Exception = iii.InvocationError("invocation_stopped", "the worker went away")
    return error


def loop(outcomes: list[Any], **options: Any) -> tuple[Any, list[int]]:
    """What the block came to, and the numbers of its attempts."""
    numbers: list[int] = []
    value = None
    options.setdefault("policy", QUICK)
    for attempt in retrying(**options):
        numbers.append(attempt.number)
        with attempt:
            outcome = outcomes[len(numbers) - 1]
            if isinstance(outcome, BaseException):
                raise outcome
            value = outcome
    return value, numbers


async def loop_async(outcomes: list[Any], **options: Any) -> tuple[Any, list[int]]:
    numbers: list[int] = []
    value = None
    options.setdefault("policy", QUICK)
    async for attempt in retrying(**options):
        numbers.append(attempt.number)
        with attempt:
            outcome = outcomes[len(numbers) - 1]
            if isinstance(outcome, BaseException):
                raise outcome
            value = outcome
    return value, numbers


def go(how: str, outcomes: list[Any], **options: Any) -> tuple[Any, list[int]]:
    if how == "for":
        return loop(outcomes, **options)
    return asyncio.run(loop_async(outcomes, **options))


BOTH = pytest.mark.parametrize("how", ["for", "async for"])


def reason(error: BaseException) -> Reason:
    report = report_for(error)
    assert report is not None
    return report.reason


@BOTH
def test_block_that_succeeds_runs_once(how: str) -> None:
    assert go(how, ["done"]) == ("done", [1])


@BOTH
def test_idempotent_block_repeats_with_numbered_attempts(how: str) -> None:
    assert go(how, [stopped(), stopped(), "done"], idempotent=True) == ("done", [1, 2, 3])


@BOTH
def test_without_idempotent_block_runs_once(how: str) -> None:
    error = stopped()
    with pytest.raises(Exception, match="invocation_stopped") as caught:
        go(how, [error, "done"])
    assert caught.value is error
    assert reason(error) is Reason.NOT_IDEMPOTENT


@BOTH
def test_when_attempts_run_out_last_exception_is_raised(how: str) -> None:
    errors = [stopped() for _ in range(4)]
    with pytest.raises(Exception, match="invocation_stopped") as caught:
        go(how, errors, idempotent=True)
    assert caught.value is errors[-1]
    report = report_for(errors[-1])
    assert report is not None
    assert report.reason is Reason.EXHAUSTED
    assert [attempt.number for attempt in report.attempts] == [1, 2, 3, 4]
    assert hint_for(errors[-1]) is not None
    assert len(errors[-1].__notes__) == 1


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
@BOTH
def test_denial_is_final(how: str, code: str) -> None:
    error = iii.InvocationError(code, "no")
    with pytest.raises(Exception, match=code):
        go(how, [error, "done"], idempotent=True)
    assert reason(error) is Reason.NOT_RETRYABLE


@BOTH
def test_try_again_runs_block_again_and_ends_as_its_cause(how: str) -> None:
    assert go(how, [tenacity.TryAgain(), 1]) == (1, [1, 2])
    cause, again = ValueError("why"), tenacity.TryAgain()
    again.__cause__ = cause
    with pytest.raises(ValueError, match="why") as caught:
        go(how, [again] * 4)
    assert caught.value is cause


def test_break_and_return_inside_block_end_loop() -> None:
    def returns() -> str:
        for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                if attempt.number == 1:
                    raise stopped()
                return f"attempt {attempt.number}"
        return "the end"

    assert returns() == "attempt 2"
    for attempt in retrying(idempotent=True, policy=QUICK):
        with attempt:
            if attempt.number == 1:
                raise stopped()
            break
    else:
        pytest.fail("a break is a break")


async def test_break_and_return_inside_async_block_end_loop() -> None:
    async def returns() -> str:
        async for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                await asyncio.sleep(0)
                if attempt.number == 1:
                    raise stopped()
                return f"attempt {attempt.number}"
        return "the end"

    assert await returns() == "attempt 2"


PASSING = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("before", [0, 1])
def test_cancellation_and_its_like_pass_untouched(kind: type[BaseException], before: int) -> None:
    error = kind()
    with pytest.raises(kind) as caught:
        loop([*[stopped()] * before, error, "done"], idempotent=True)
    assert caught.value is error
    assert not hasattr(error, "__notes__")


def level(budget: Budget) -> float:
    """Permits left in the one bucket of a budget."""
    (bucket,) = budget._states.values()
    return bucket.level


@pytest.mark.parametrize("kind", PASSING)
def test_in_sleep_they_pass_and_permit_is_given_back(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(ratio=0, burst=1, min_per_second=0)

    def interrupt(_: float) -> None:
        raise kind

    monkeypatch.setattr("iii_resilience.core.system_clock.sleep", interrupt)
    with pytest.raises(kind):
        loop([stopped(), "done"], idempotent=True, policy=QUICK.replace(budget=budget))
    assert level(budget) == 1.0


@pytest.mark.parametrize("where", ["block", "sleep"])
async def test_one_cancel_is_enough(where: str) -> None:
    budget = Budget(ratio=0, burst=1, min_per_second=0)
    backoff = Backoff(base=9, throttled_base=9, jitter="none")
    reached = asyncio.Event()

    async def work() -> None:
        async for attempt in retrying(idempotent=True, backoff=backoff, budget=budget):
            with attempt:
                reached.set()
                if where == "sleep":
                    raise stopped()
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await reached.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert level(budget) == 1.0


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
@BOTH
def test_what_ends_iterators_neither_ends_loop_nor_is_lost(
    how: str, kind: type[Exception], before: int
) -> None:
    if how == "async for" and kind is StopIteration:
        # Python allows no coroutine to raise it: it turns it into a RuntimeError itself.
        with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
            go(how, [*[stopped()] * before, kind()], idempotent=True)
        return
    error = kind("x")
    with pytest.raises(kind) as caught:
        go(how, [*[stopped()] * before, error, "done"], idempotent=True)
    assert caught.value is error


@BOTH
def test_delays_are_slept_between_blocks(how: str, clock: FakeClock) -> None:
    policy = RetryPolicy(backoff=Backoff(jitter="none"), budget=None)
    with pytest.raises(Exception, match="invocation_stopped"):
        go(how, [stopped() for _ in range(4)], idempotent=True, policy=policy)
    assert clock.slept == pytest.approx([0.2, 0.4, 0.8])


@BOTH
def test_pushback_is_floor_and_beyond_cap_end(how: str, clock: FakeClock) -> None:
    go(how, [RpcError("RATE_LIMITED", "x", retry_after=4.0), 1], idempotent=True)
    assert clock.slept == [4.0]
    error = RpcError("RATE_LIMITED", "x", retry_after=40.0)
    with pytest.raises(RpcError):
        go(how, [error, 1], idempotent=True)
    assert reason(error) is Reason.PUSHBACK


@BOTH
def test_no_block_starts_past_deadline_after_long_sleep(how: str, clock: FakeClock) -> None:
    clock.late = 100.0
    budget = Budget(ratio=0, burst=1, min_per_second=0)
    error = stopped()
    with pytest.raises(Exception, match="invocation_stopped"):
        go(how, [error, "late"], idempotent=True, policy=RetryPolicy(budget=budget))
    assert reason(error) is Reason.DEADLINE
    assert level(budget) == 1.0


@BOTH
def test_users_wait_and_stop_work_as_in_decorator(how: str, clock: FakeClock) -> None:
    options: dict[str, Any] = {
        "wait": tenacity.wait_fixed(3) + tenacity.wait_fixed(1),
        "stop": tenacity.stop_after_attempt(9) | tenacity.stop_after_delay(8),
    }
    with pytest.raises(Exception, match="invocation_stopped"):
        go(how, [stopped() for _ in range(4)], idempotent=True, **options)
    assert clock.slept == [4.0, 4.0]


def test_each_iteration_over_one_loop_is_new_call() -> None:
    made = retrying(idempotent=True, policy=QUICK)
    for _ in range(3):
        numbers = []
        for attempt in made:
            numbers.append(attempt.number)
            with attempt:
                if attempt.number < 3:
                    raise stopped()
        assert numbers == [1, 2, 3]


def test_nested_loops_and_decorators_do_not_multiply() -> None:
    calls = 0

    @iii_retry(idempotent=True, policy=QUICK)
    def inner() -> None:
        for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                nonlocal calls
                calls += 1
                raise stopped()

    def outer() -> None:
        for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                inner()

    with pytest.raises(Exception, match="invocation_stopped") as caught:
        outer()
    assert calls == 4
    assert reason(caught.value) is Reason.ALREADY_RETRIED


def test_named_policy_comes_from_book_in_force() -> None:
    made = retrying(idempotent=True, policy="mine")
    with pytest.raises(ValueError, match="no policy is named 'mine'"):
        next(iter(made))
    use_policies(PolicyBook({"mine": QUICK.replace(attempts=2)}))
    numbers = []

    def go_round() -> None:
        for attempt in made:
            numbers.append(attempt.number)
            with attempt:
                raise stopped()

    with pytest.raises(Exception, match="invocation_stopped"):
        go_round()
    assert numbers == [1, 2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attempt_timeout": 1}, ValueError, r"a block cannot be cut.*use asyncio\.timeout\(\)"),
        ({"policy": RetryPolicy(attempt_timeout=1)}, ValueError, "a block cannot be cut"),
        ({"fallback": None}, TypeError, r"^retrying\(\) takes no fallback: it only works in"),
        ({"max_stops": 1}, TypeError, r"^retrying\(\) takes no max_stops"),
        ({"atempts": 1}, TypeError, r"^retrying\(\) takes no atempts; did you mean attempts"),
        ({"attempts": 0}, ValueError, r"RetryPolicy\.attempts must be a whole number"),
        ({"idempotent": 1}, TypeError, "idempotent must be True or False, got int"),
    ],
)
def test_wrong_options_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        retrying(**options)


def test_attempt_timeout_is_answered_with_what_cuts_block() -> None:
    with pytest.raises(ValueError) as caught:
        retrying(attempt_timeout=1)
    assert str(caught.value) == (
        "attempt_timeout cannot be kept here: a block cannot be cut from outside: use "
        "asyncio.timeout() in it"
    )


@pytest.mark.parametrize("idempotent", [True, False])
@BOTH
def test_traceback_has_one_frame_of_library(how: str, idempotent: bool) -> None:
    with pytest.raises(Exception, match="invocation_stopped") as caught:
        go(how, [stopped() for _ in range(4)], idempotent=idempotent)
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not [file for file in files if "tenacity" in file]
    assert sum(file.startswith(LIBRARY) for file in files) == 1
    assert files[-1] == __file__
    assert caught.value.__context__ is None


class TrackedError(ConnectionError):
    """May be referred to weakly, as every exception."""


@pytest.mark.parametrize("succeeds", [True, False])
def test_nothing_keeps_exception_that_was_handled(succeeds: bool) -> None:
    born: list[weakref.ref[TrackedError]] = []
    attempt = None
    with contextlib.suppress(TrackedError):
        for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                if not (succeeds and attempt.number == 3):
                    error = TrackedError("x")
                    born.append(weakref.ref(error))
                    try:
                        raise error
                    finally:
                        del error
    gc.collect()
    assert attempt is not None  # the user's variable outlives the loop
    assert [ref() for ref in born] == [None] * len(born)
    assert len(born) >= 2


def test_loop_that_is_left_open_does_no_harm() -> None:
    attempts = iter(retrying(idempotent=True, policy=QUICK))
    with next(attempts):
        raise stopped()
    second = next(attempts)
    assert second.number == 2
    attempts.close()  # type: ignore[attr-defined]


async def test_block_swallowing_cancellation_is_not_repeated() -> None:
    calls, reached = 0, asyncio.Event()

    async def work() -> None:
        nonlocal calls
        async for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                calls += 1
                if calls == 1:
                    raise ConnectionResetError
                reached.set()
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    raise ConnectionResetError from None

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(ConnectionResetError) as caught:
        await task
    assert calls == 2
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.NOT_RETRYABLE


@BOTH
def test_loop_s_retries_count_against_budget(how: str) -> None:
    budget = Budget(ratio=0.0, burst=1, min_per_second=0)
    policy = QUICK.replace(attempts=9, budget=budget)
    error = stopped()
    with pytest.raises(type(error)) as caught:
        go(how, [stopped(), error], idempotent=True, policy=policy)
    assert caught.value is error
    assert reason(error) is Reason.BUDGET_EXHAUSTED
    (bucket,) = budget._states.values()
    assert (bucket.taken, bucket.wasted, bucket.level) == (1, 1, 0.0)


@BOTH
def test_loop_that_succeeds_refills_budget(how: str) -> None:
    budget = Budget(ratio=0.5, burst=2, min_per_second=0)
    policy = QUICK.replace(attempts=2, budget=budget)
    with pytest.raises(Exception, match="invocation_stopped"):
        go(how, [stopped(), stopped()], idempotent=True, policy=policy)
    assert level(budget) == 0.0  # one retry, and the cost of the failure
    for expected in (0.5, 1.0):
        go(how, ["done"], idempotent=True, policy=policy)
        assert level(budget) == expected
    go(how, [stopped(), "done"], idempotent=True, policy=policy)
    assert level(budget) == 1.5


@BOTH
def test_loop_s_circuit_is_of_function_around_it_and_opens_by_class(how: str) -> None:
    class BusyError(Exception):
        """A user's own, which is permanent if nothing is said of it."""

    breaker = Breaker(min_calls=2, failure_rate=1.0, open=3600.0)
    source = PolicySource(
        "retrying",
        QUICK.replace(breaker=breaker, attempts=2),
        {"transient": BusyError},
        idempotent=True,
    )

    def block() -> None:
        for attempt in RetryLoop(source, "shop.save"):
            with attempt:
                raise BusyError

    async def block_async() -> None:
        async for attempt in RetryLoop(source, "shop.save"):
            with attempt:
                raise BusyError

    for expected, words in ((BusyError, None), (CircuitOpenError, r"circuit of retrying\(\) is")):
        with pytest.raises(expected, match=words):
            block() if how == "for" else asyncio.run(block_async())
    assert [*breaker._states] == ["shop.save"]


@BOTH
@pytest.mark.parametrize("attempts_before", [0, 1])
def test_block_waits_for_place_until_deadline_only(how: str, attempts_before: int) -> None:
    bulkhead = Bulkhead(1, queue=5, wait=60.0)
    policy = QUICK.replace(bulkhead=bulkhead, deadline=0.1)
    source = PolicySource("retrying", policy, {}, idempotent=True)
    slots = bulkhead.slots_for("shop.save")
    slots._limit = attempts_before

    def block() -> None:
        for attempt in RetryLoop(source, "shop.save"):
            with attempt:
                slots._limit = 0  # as if another caller had come in as the block ends
                raise stopped()

    async def block_async() -> None:
        async for attempt in RetryLoop(source, "shop.save"):
            with attempt:
                slots._limit = 0
                raise stopped()

    started = time.monotonic()
    with pytest.raises(Exception, match=r"invocation_stopped|no place") as caught:
        block() if how == "for" else asyncio.run(block_async())
    assert time.monotonic() - started < 30.0
    report = report_for(caught.value)
    assert report is not None
    assert [one.sent for one in report.attempts] == [True] * attempts_before + [False]
    assert report.reason is Reason.BULKHEAD_FULL


@BOTH
def test_permit_of_retry_that_is_left_is_lost(how: str) -> None:
    budget = Budget(ratio=1.0, burst=5, min_per_second=0)
    policy = QUICK.replace(budget=budget)

    def block() -> None:
        for attempt in retrying(policy=policy, idempotent=True):
            if attempt.number == 2:
                break
            with attempt:
                raise stopped()

    async def block_async() -> None:
        async for attempt in retrying(policy=policy, idempotent=True):
            if attempt.number == 2:
                break
            with attempt:
                raise stopped()
        await asyncio.sleep(0.01)  # asyncio closes the loop's generator in a task of its own

    block() if how == "for" else asyncio.run(block_async())
    (bucket,) = budget._states.values()
    assert (bucket.taken, bucket.wasted, bucket.refunded) == (1, 1, 0)


@BOTH
def test_log_names_loop(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "iii_resilience"), pytest.raises(Exception, match="stopped"):
        go(how, [stopped()])
    (record,) = caplog.records
    assert vars(record)["iii_function_id"] == "retrying()"


class TestBeforeTheBlock:
    """The loop is left, or goes on, before ``with attempt:`` was reached."""

    @staticmethod
    def guarded(fails: int) -> tuple[Any, Bulkhead]:
        bulkhead = Bulkhead(limit=1)
        breaker = Breaker(min_calls=fails or 1, open=0.001, probes=1)
        policy = QUICK.replace(bulkhead=bulkhead, breaker=breaker if fails else None)
        return retrying(idempotent=True, policy=policy), bulkhead

    @staticmethod
    def inside(bulkhead: Bulkhead) -> int:
        (slots,) = bulkhead._states.values()
        return slots.inside

    @pytest.mark.parametrize("fails", [0, 1])
    @pytest.mark.parametrize("leave", ["break", "continue", "raise"])
    def test_place_and_probe_are_given_back(self, leave: str, fails: int) -> None:
        loop, bulkhead = self.guarded(fails)
        kept = []  # a variable that outlives the loop, as that of `for` does
        for _ in range(3):
            with contextlib.suppress(KeyError):
                for attempt in loop:
                    kept.append(attempt)
                    if attempt.number > fails:
                        if leave == "break":
                            break
                        if leave == "raise":
                            raise KeyError
                        continue
                    with attempt:
                        raise ConnectionError
                    time.sleep(0.01)  # until the circuit lets a probe through
            assert self.inside(bulkhead) == 0
        assert len(kept) == 3 * (fails + 1)

    @pytest.mark.parametrize("fails", [0, 1])
    async def test_async_place_is_given_back(self, fails: int) -> None:
        loop, bulkhead = self.guarded(fails)
        kept = []
        for _ in range(3):
            async for attempt in loop:
                kept.append(attempt)
                if attempt.number > fails:
                    break
                with attempt:
                    raise ConnectionError
                await asyncio.sleep(0.01)
            assert self.inside(bulkhead) == 0  # at once: asyncio closes the loop's generator later
        assert len(kept) == 3 * (fails + 1)

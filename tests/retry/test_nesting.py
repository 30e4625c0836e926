"""Retries inside retries do not multiply, however the inner call is made."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from iii_resilience import Backoff, Reason, RetryPolicy, iii_retry, report_for, retrying

AT_ONCE = RetryPolicy(
    attempts=3, backoff=Backoff(base=0.0, throttled_base=0.0), budget=None, deadline=None
)
retry = iii_retry(idempotent=True, policy=AT_ONCE)


class Target:
    """Always fails with a transient error, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.calls += 1
        raise ConnectionResetError

    async def coroutine(self) -> None:
        await asyncio.sleep(0)
        self()


def reason(error: BaseException) -> Reason:
    report = report_for(error)
    assert report is not None
    return report.reason


def test_three_nested_decorators_call_function_three_times() -> None:
    target = Target()
    innermost = retry(target.__call__)

    @retry
    def middle() -> None:
        innermost()

    @retry
    def outermost() -> None:
        middle()

    with pytest.raises(ConnectionResetError) as caught:
        outermost()
    assert target.calls == 3
    assert reason(caught.value) is Reason.ALREADY_RETRIED


def test_three_nested_coroutines_call_function_three_times() -> None:
    target = Target()
    innermost = retry(target.coroutine)

    @retry
    async def middle() -> None:
        await innermost()

    @retry
    async def outermost() -> None:
        await middle()

    with pytest.raises(ConnectionResetError):
        asyncio.run(outermost())
    assert target.calls == 3


def by_a_pool(inner: Callable[[], None]) -> Callable[[], None]:
    def outer() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(inner).result()

    return outer


def by_a_loop_of_its_own(inner: Callable[[], None]) -> Callable[[], None]:
    return lambda: asyncio.run(asyncio.to_thread(inner))


def by_a_thread_that_is_joined(inner: Callable[[], None]) -> Callable[[], None]:
    def outer() -> None:
        raised: list[BaseException] = []

        def work() -> None:
            try:
                inner()
            except ConnectionResetError as error:
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        raise raised[0]

    return outer


def by_a_block(inner: Callable[[], None]) -> Callable[[], None]:
    def outer() -> None:
        for attempt in retrying(idempotent=True, policy=AT_ONCE):
            with attempt:
                inner()

    return outer


@pytest.mark.parametrize(
    "way", [by_a_pool, by_a_loop_of_its_own, by_a_thread_that_is_joined, by_a_block]
)
def test_nor_do_they_multiply_across_threads_and_loops(
    way: Callable[[Callable[[], None]], Callable[[], None]],
) -> None:
    target = Target()
    with pytest.raises(ConnectionResetError) as caught:
        retry(way(retry(target.__call__)))()
    assert target.calls == 3
    assert reason(caught.value) is Reason.ALREADY_RETRIED


async def by_a_task(inner: Callable[[], Any]) -> None:
    await asyncio.create_task(inner())


async def by_gather(inner: Callable[[], Any]) -> None:
    await asyncio.gather(asyncio.sleep(0), inner())


async def by_gathered_results(inner: Callable[[], Any]) -> None:
    for result in await asyncio.gather(asyncio.sleep(0), inner(), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def by_a_timeout(inner: Callable[[], Any]) -> None:
    await asyncio.wait_for(inner(), 60)


async def by_its_cause(inner: Callable[[], Any]) -> None:
    try:
        await inner()
    except ConnectionResetError as error:
        raise ConnectionAbortedError from error


async def by_a_group_as_the_cause(inner: Callable[[], Any]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            group.create_task(inner())
    except ExceptionGroup as errors:
        raise ConnectionAbortedError from errors


async def by_a_group_in_a_group_as_the_cause(inner: Callable[[], Any]) -> None:
    try:
        await inner()
    except ConnectionResetError as error:
        inside = ExceptionGroup("inside", [ValueError(), error])
        raise ConnectionAbortedError from ExceptionGroup("outside", [KeyError(), inside])


@pytest.mark.parametrize(
    "way",
    [
        by_a_task,
        by_gather,
        by_gathered_results,
        by_a_timeout,
        by_its_cause,
        by_a_group_as_the_cause,
        by_a_group_in_a_group_as_the_cause,
    ],
)
def test_nor_do_they_multiply_across_tasks_and_groups(
    way: Callable[[Callable[[], Any]], Any],
) -> None:
    target = Target()
    inner = retry(target.coroutine)

    @retry
    async def outer() -> None:
        await way(inner)

    with pytest.raises(ConnectionError) as caught:
        asyncio.run(outer())
    assert target.calls == 3
    assert reason(caught.value) is Reason.ALREADY_RETRIED


def test_group_itself_is_never_repeated() -> None:
    target = Target()
    inner = retry(target.coroutine)
    calls = 0

    @retry
    async def outer() -> None:
        nonlocal calls
        calls += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(inner())
            group.create_task(inner())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(outer())
    assert calls == 1
    assert reason(caught.value) is Reason.NOT_RETRYABLE
    assert target.calls <= 6


def test_siblings_of_call_that_gave_up_are_retried_as_ever() -> None:
    gave_up, fine = Target(), []

    @retry
    async def sibling() -> str:
        await asyncio.sleep(0)
        fine.append(1)
        if len(fine) < 3:
            raise ConnectionResetError
        return "fine"

    async def both() -> Any:
        return await asyncio.gather(retry(gave_up.coroutine)(), sibling(), return_exceptions=True)

    failed, value = asyncio.run(both())
    assert isinstance(failed, ConnectionResetError)
    assert value == "fine"
    assert (gave_up.calls, len(fine)) == (3, 3)


def test_own_failure_after_inner_call_gave_up_is_retried() -> None:
    target, calls = Target(), []
    inner = retry(target.__call__)

    @retry
    def outer() -> str:
        calls.append(1)
        with contextlib.suppress(ConnectionResetError):
            inner()
        if len(calls) < 3:
            raise ConnectionResetError
        return "done"

    assert outer() == "done"
    assert target.calls == 9


def test_outer_one_decides_about_inner_non_idempotent() -> None:
    target = Target()
    inner = iii_retry(policy=AT_ONCE)(target.__call__)
    with pytest.raises(ConnectionResetError) as caught:
        retry(inner)()
    assert target.calls == 3
    assert reason(caught.value) is Reason.EXHAUSTED

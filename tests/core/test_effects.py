"""A generator of effects runs the same on a thread and in a coroutine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

import attrs
import pytest

from iii_resilience.core.effects import Blocking, CallHandler, Sleep, Wait, drive, drive_async

Steps = Generator[Any, Any, Any]
BOTH = pytest.mark.parametrize("how", ["sync", "async"])


async def in_thread(work: Callable[[], None]) -> None:
    await asyncio.to_thread(work)


def run(steps: Steps, how: str, call: Callable[..., Any] | None = None) -> Any:
    """Drive steps either way; what is called is a coroutine function in the async one."""

    async def coroutine(**extra: Any) -> Any:
        assert call is not None
        return call(**extra)

    if how == "sync":
        return drive(steps) if call is None else drive(steps, call)
    if call is None:
        return asyncio.run(drive_async(steps, in_thread=in_thread))
    return asyncio.run(drive_async(steps, coroutine, in_thread))


@attrs.define
class Woken:
    """A sleeper whose sleeps one future ends."""

    future: Future[float]
    left: int = 0

    def add(self) -> Future[float]:
        return self.future

    def leave(self, future: Future[float]) -> None:
        assert future is self.future
        self.left += 1


def done(value: float = 0.0) -> Future[float]:
    future: Future[float] = Future()
    future.set_result(value)
    return future


@BOTH
def test_each_effect_has_its_value(how: str) -> None:
    def steps() -> Steps:
        blocked = yield Blocking(lambda: threading.current_thread().name)
        plain = yield Blocking(lambda: "plain", blocking=False)
        slept = yield Sleep(0.0)
        woken = yield Sleep(60.0, Woken(done()))
        waited = yield Wait(done(3.0), 60.0)
        called = yield CallHandler({"n": 1})
        return [bool(blocked), plain, slept, woken, waited, called]

    found = run(steps(), how, lambda n: n + 1)
    assert found == [True, "plain", None, None, 3.0, 2]


@BOTH
def test_sleep_that_is_not_woken_ends_by_itself(how: str) -> None:
    def steps() -> Steps:
        yield Sleep(0.001, Woken(Future()))
        return "slept"

    assert run(steps(), how) == "slept"


@BOTH
@pytest.mark.parametrize("effect", [lambda f: Sleep(60.0, Woken(f)), lambda f: Wait(f, 60.0)])
def test_error_of_future_is_raised_at_effect(
    how: str, effect: Callable[[Future[float]], Any]
) -> None:
    future: Future[float] = Future()
    future.set_exception(ConnectionError("shut down"))

    def steps() -> Steps:
        try:
            yield effect(future)
        except ConnectionError as error:
            return str(error)

    assert run(steps(), how) == "shut down"


@BOTH
def test_wait_past_its_time_raises_timeout_error(how: str) -> None:
    def steps() -> Steps:
        try:
            yield Wait(Future(), 0.001)
        except TimeoutError:
            return "late"

    assert run(steps(), how) == "late"


@BOTH
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_generator_decides_what_becomes_of_error(how: str, kind: type[BaseException]) -> None:
    def fails() -> None:
        raise kind

    def steps() -> Steps:
        try:
            yield CallHandler()
        except kind:
            yield Sleep(0.0)
            return "handled"

    def passes() -> Steps:
        yield CallHandler()

    if how == "sync" or kind is ValueError:  # asyncio.run() itself ends at a KeyboardInterrupt
        assert run(steps(), how, fails) == "handled"
        with pytest.raises(kind):
            run(passes(), how, fails)


def test_steps_without_callable_call_nothing() -> None:
    def steps() -> Steps:
        yield CallHandler()

    with pytest.raises(AssertionError, match="call nothing"):
        drive(steps())


async def test_cancelled_coroutine_undoes_blocking_work() -> None:
    started, go_on = threading.Event(), threading.Event()
    undone: list[str] = []

    def work() -> str:
        started.set()
        go_on.wait(10)
        return "result"

    def steps() -> Steps:
        yield Blocking(work, undone.append)

    task = asyncio.ensure_future(drive_async(steps(), in_thread=in_thread))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done(), "half an operation is none"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["result"]


def test_coroutine_closed_by_its_loop_closes_generator() -> None:
    closed: list[bool] = []

    def steps() -> Steps:
        try:
            yield CallHandler()
        except GeneratorExit:
            closed.append(True)
            raise

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    async def start() -> Any:
        running = drive_async(steps(), never)
        running.send(None)
        return running

    asyncio.run(start()).close()
    assert closed == [True]


async def test_blocking_work_without_threads_runs_in_place() -> None:
    def steps() -> Steps:
        return (yield Blocking(threading.current_thread))

    assert await drive_async(steps()) is threading.current_thread()


async def test_work_that_does_not_block_runs_in_place() -> None:
    def steps() -> Steps:
        return (yield Blocking(threading.current_thread, blocking=False))

    assert await drive_async(steps(), in_thread=in_thread) is threading.current_thread()

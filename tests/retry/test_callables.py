"""What is retried as a coroutine, and what only looks like one."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import types
import warnings
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
import tenacity
import trio

from iii_resilience import Backoff, RetryPolicy, iii_retry, report_for, retrying
from iii_resilience.core.callables import is_coroutine_function
from iii_resilience.handling import consumer, idempotent
from iii_resilience.handling.hardening.harden import Hardener, Hardening
from iii_resilience.handling.hardening.running_handlers import Running
from iii_resilience.stores import MemoryStore

QUICK = RetryPolicy(attempts=3, backoff=Backoff(base=0, throttled_base=0), budget=None)


class Flaky:
    """Fails twice and then succeeds, as what is called may be written."""

    def __init__(self) -> None:
        self.calls = 0

    async def method(self, *_: Any) -> str:
        await asyncio.sleep(0)
        self.calls += 1
        if self.calls < 3:
            raise ConnectionError
        return "done"

    async def __call__(self, *args: Any) -> str:
        return await self.method(*args)

    def plain(self, *args: Any) -> Awaitable[str]:
        return self.method(*args)


def an_async_mock() -> Any:
    return AsyncMock(side_effect=[ConnectionError(), ConnectionError(), "done"])


def marked_by_asyncio() -> Any:
    """As asgiref and Cython mark what is no function of Python's."""
    flaky = Flaky()

    def function(*args: Any) -> Any:
        return flaky.method(*args)

    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


def marked_by_inspect() -> Any:
    flaky = Flaky()

    def function(*args: Any) -> Any:
        return flaky.method(*args)

    return inspect.markcoroutinefunction(function)  # type: ignore[attr-defined,unused-ignore]


class MarkedObject:
    def __init__(self) -> None:
        self._flaky = Flaky()
        inspect.markcoroutinefunction(self)  # type: ignore[attr-defined,unused-ignore]

    def __call__(self, *args: Any) -> Any:
        return self._flaky.method(*args)


def partial_of(make: Callable[[], Any]) -> Callable[[], Any]:
    def made() -> Any:
        return functools.partial(functools.partial(make()))

    made.__name__ = f"partial_of_{make.__name__}"
    return made


def a_method() -> Any:
    return Flaky().method


KINDS = [Flaky, a_method, an_async_mock, marked_by_asyncio]
if sys.version_info >= (3, 12):
    KINDS += [marked_by_inspect, MarkedObject]
KINDS += [partial_of(kind) for kind in KINDS]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
class TestCoroutines:
    async def test_decorator_retries_it(self, make: Callable[[], Any]) -> None:
        assert await iii_retry(idempotent=True, policy=QUICK)(make())() == "done"

    async def test_decorated_function_is_one_again(self, make: Callable[[], Any]) -> None:
        inner = iii_retry(idempotent=True, policy=QUICK)(make())
        assert is_coroutine_function(inner)
        assert await iii_retry(idempotent=True, policy=QUICK)(inner)() == "done"

    async def test_attempt_timeout_is_taken(self, make: Callable[[], Any]) -> None:
        decorated = iii_retry(idempotent=True, policy=QUICK, attempt_timeout=5.0)(make())
        assert await decorated() == "done"

    async def test_handlers_of_that_kind_are_awaited(self, make: Callable[[], Any]) -> None:
        store = MemoryStore()
        handler = idempotent(store, key="id", function_id="a::b")(make())
        consuming = consumer(parking=store, key="id", function_id="a::c")(handler)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await consuming({"id": "1"})
        assert await consuming({"id": "1"}) == "done"

    async def test_hardened_handlers_too(self, make: Callable[[], Any]) -> None:
        handler = iii_retry(idempotent=True, policy=QUICK)(make())
        hardened: Any = Hardener(Hardening(), Running()).harden("a::b", handler)
        assert await hardened({}) == "done"


class TestPlainFunctions:
    def test_mock_is_plain_function(self) -> None:
        mock = MagicMock(side_effect=[ConnectionError(), "done"])
        assert iii_retry(idempotent=True, policy=QUICK)(mock)() == "done"
        assert not is_coroutine_function(mock)

    @pytest.mark.parametrize("value", [None, 1, "text", object()])
    def test_values_are_returned_without_word(self, value: object) -> None:
        decorated = iii_retry(idempotent=True, policy=QUICK)(lambda: value)
        assert decorated() is decorated() is value

    @pytest.mark.bare  # the warning's place is the caller's
    async def test_awaitable_is_warned_of_once_by_name(self) -> None:
        flaky = Flaky()
        decorated = iii_retry(idempotent=True, policy=QUICK)(flaky.plain)
        with pytest.warns(RuntimeWarning) as caught:
            made = [decorated(), decorated()]
        for one in made:
            with pytest.raises(ConnectionError):
                await one
        (warning,) = caught.list
        assert warning.filename == __file__
        assert str(warning.message).startswith(
            f"{__name__}.Flaky.plain is a plain function and returned an awaitable (coroutine): "
            "what fails when that is awaited is not retried."
        )
        assert await decorated() == "done"

    async def test_first_value_may_be_none(self) -> None:
        values = iter([None, asyncio.get_running_loop().create_future()])
        decorated = iii_retry(idempotent=True, policy=QUICK)(lambda: next(values))
        assert decorated() is None
        with pytest.warns(RuntimeWarning, match=r"returned an awaitable \(Future\)"):
            decorated()

    def test_generator_made_coroutine_is_still_refused(self) -> None:
        @types.coroutine
        def generator() -> Any:
            yield

        with pytest.raises(TypeError, match="cannot decorate the generator function"):
            iii_retry(generator)


class TestTrio:
    def test_decorated_coroutine_is_refused_before_it_runs(self) -> None:
        calls = []

        @iii_retry(idempotent=True, policy=QUICK)
        async def function() -> None:
            calls.append(1)

        with pytest.raises(RuntimeError, match=r"function runs under trio, and its retries need"):
            trio.run(function)
        assert calls == []

    def test_loop_is_refused_before_its_block(self) -> None:
        tries = []

        async def block() -> None:
            async for attempt in retrying(idempotent=True, policy=QUICK):
                with attempt:
                    tries.append(attempt.number)

        with pytest.raises(RuntimeError, match=r"retrying\(\) runs under trio"):
            trio.run(block)
        assert tries == []

    def test_tenacity_works_there_as_message_says(self) -> None:
        flaky = Flaky()
        flaky.method = flaky_without_asyncio(flaky)  # type: ignore[method-assign]
        retry = tenacity.AsyncRetrying(**QUICK.to_tenacity(idempotent=True))

        async def program() -> str:
            result: str = await retry(flaky.method)
            return result

        assert trio.run(program) == "done"

    def test_plain_functions_are_retried_there(self) -> None:
        errors = iter([ConnectionError()])

        @iii_retry(idempotent=True, policy=QUICK)
        def function() -> str:
            for error in errors:
                raise error
            return "done"

        async def program() -> str:
            return function()

        assert trio.run(program) == "done"

    async def test_asyncio_is_not_refused_where_trio_is_loaded(self) -> None:
        assert await iii_retry(idempotent=True, policy=QUICK)(Flaky())() == "done"
        tries = []
        async for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                tries.append(attempt.number)
        assert tries == [1]

    def test_coroutine_driven_by_hand_keeps_its_error(self) -> None:
        error = ValueError("the original")

        @iii_retry(idempotent=True, policy=QUICK)
        async def function() -> None:
            raise error

        coroutine = function()
        with pytest.raises(ValueError, match="the original"), warnings.catch_warnings():
            coroutine.send(None)
        assert report_for(error) is not None


def flaky_without_asyncio(flaky: Flaky) -> Callable[..., Any]:
    async def method(*_: Any) -> str:
        await trio.lowlevel.checkpoint()
        flaky.calls += 1
        if flaky.calls < 3:
            raise ConnectionError
        return "done"

    return method

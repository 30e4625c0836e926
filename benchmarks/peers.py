"""The peers, each set up for the same work as `@iii_retry(idempotent=True)` with its defaults.

The work: a `ConnectionError` is repeated, four attempts in all, exponential backoff from 0.2 s with
jitter up to 20 s, nothing after 60 s, every other exception is given up at once and raised as it
is. Nobody logs: ours is told not to, stamina's hooks are taken away, backoff gets no logger; the
others do not unless they are asked. A peer that is not installed is left out.

Knows nothing of what is measured.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import tenacity

from iii_resilience import Backoff, Breaker, RetryPolicy, iii_retry

Decorator = Callable[[Any], Any]

OURS = "iii-resilience"
BARE = "try/except"
PEERS = ("tenacity", "stamina", "backoff", "redress", "google-api-core", "hyx", "nopanic")
BREAKERS = ("pybreaker", "interlock-cb")

WITHOUT_WAIT = Backoff(base=0.0, throttled_base=0.0, jitter="none")


def logging_off() -> None:
    """Nobody logs; what the library decides is still counted."""
    logging.getLogger("iii_resilience").setLevel(logging.CRITICAL + 1)


def versions() -> dict[str, str]:
    """The installed version of every peer and of what the library stands on."""
    found = {}
    for name in (*PEERS, *BREAKERS, "attrs", "opentelemetry-api"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def ours(*, wait: bool = True, **options: Any) -> Decorator:
    """Our decorator, its budget on."""
    policy = RetryPolicy(**options) if wait else RetryPolicy(backoff=WITHOUT_WAIT, **options)
    return iii_retry(idempotent=True, policy=policy)


def ours_with_breaker() -> Decorator:
    """Our decorator with budget and breaker."""
    return ours(breaker=Breaker())


def bare(function: Any) -> Any:
    """The least that catches an exception: what no decorator can be faster than."""
    if asyncio.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except ConnectionError:
                return await function(*args, **kwargs)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ConnectionError:
            return function(*args, **kwargs)

    return call


def peers(*, wait: bool = True, asynchronous: bool = False) -> dict[str, Decorator]:
    """The decorators of the peers that are installed.

    Args:
        wait: Whether they wait before a retry; without it they repeat at once.
        asynchronous: Whether they are for coroutine functions.
    """
    makers: dict[str, Callable[[bool, bool], Decorator]] = {
        "tenacity": _tenacity,
        "stamina": _stamina,
        "backoff": _backoff,
        "redress": _redress,
        "google-api-core": _google,
        "nopanic": _nopanic,
    }
    if asynchronous:
        makers["hyx"] = _hyx
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make(wait, asynchronous)
        except ImportError:
            continue
    return found


def _tenacity(wait: bool, _: bool) -> Decorator:
    decorator: Decorator = tenacity.retry(
        retry=tenacity.retry_if_exception_type(ConnectionError),
        stop=tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(60),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=20)
        if wait
        else tenacity.wait_none(),
        reraise=True,
    )
    return decorator


def _stamina(wait: bool, _: bool) -> Decorator:
    stamina = importlib.import_module("stamina")
    stamina.instrumentation.set_on_retry_hooks([])
    waits: dict[str, float] = {"wait_initial": 0.2, "wait_max": 20.0, "wait_jitter": 0.2}
    if not wait:
        waits = dict.fromkeys(waits, 0.0)
    decorator: Decorator = stamina.retry(on=ConnectionError, attempts=4, timeout=60.0, **waits)
    return decorator


def _backoff(wait: bool, _: bool) -> Decorator:
    backoff = importlib.import_module("backoff")
    options: dict[str, Any] = {"max_tries": 4, "max_time": 60, "logger": None}
    decorator: Decorator
    if wait:
        decorator = backoff.on_exception(
            backoff.expo, ConnectionError, base=2, factor=0.2, max_value=20, **options
        )
    else:
        decorator = backoff.on_exception(
            backoff.constant, ConnectionError, interval=0, jitter=None, **options
        )
    return decorator


def _redress(wait: bool, _: bool) -> Decorator:
    redress = importlib.import_module("redress")
    decorator: Decorator = redress.retry(
        max_attempts=4,
        deadline_s=60.0,
        strategy=redress.decorrelated_jitter(max_s=20.0) if wait else _no_delay,
        # As large as ours, so that it never refuses: what is measured is what it costs to ask.
        budget=redress.Budget(max_retries=10**9, window_s=0.001),
    )
    return decorator


def _no_delay(_: object) -> float:
    return 0.0


def _google(wait: bool, asynchronous: bool) -> Decorator:
    retry = importlib.import_module("google.api_core.retry")
    kind = retry.AsyncRetry if asynchronous else retry.Retry
    decorator: Decorator = kind(
        predicate=retry.if_exception_type(ConnectionError),
        initial=0.2 if wait else 0.0,
        maximum=20.0 if wait else 0.0,
        multiplier=2.0,
        timeout=60.0,
    )
    return decorator


def _hyx(wait: bool, _: bool) -> Decorator:
    hyx = importlib.import_module("hyx.retry")
    backoffs = importlib.import_module("hyx.retry.backoffs")
    jitters = importlib.import_module("hyx.retry.jitters")
    delays = (
        backoffs.expo(min_delay_secs=0.2, max_delay_secs=20.0, jitter=jitters.full) if wait else 0.0
    )
    decorator: Decorator = hyx.retry(on=ConnectionError, attempts=4, backoff=delays)
    return decorator


def _nopanic(wait: bool, _: bool) -> Decorator:
    nopanic = importlib.import_module("nopanic")
    decorator: Decorator = nopanic.retry(
        attempts=4,
        on=ConnectionError,
        backoff=nopanic.backoff.full_jitter(0.2, cap=20.0) if wait else 0.0,
        max_time=60.0,
        budget=nopanic.RetryBudget(min_retries_per_sec=10.0),
    )
    return decorator


def permanent_for_redress() -> Exception:
    """What redress recognises as permanent."""
    error: Exception = importlib.import_module("redress").PermanentError("x")
    return error

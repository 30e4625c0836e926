"""What a circuit breaker costs around a call, and what a rejection costs, against other breakers.

Knows nothing of retries: everybody's breaker stands alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from measure import FULL, Effort, alternate
from peers import OURS
from table import Bound, Section, figure

from iii_resilience import Breaker, RetryPolicy
from iii_resilience.retry.admission import guard_for

Guard = Callable[[Callable[[], Any]], Any]


def sections(effort: Effort) -> Iterator[Section]:
    """Both tables."""
    yield around_a_success(effort)
    yield rejection(effort)


def guards(*, broken: bool) -> dict[str, Guard]:
    """Everybody's breaker, as what calls a function behind it."""
    found: dict[str, Guard] = {OURS: _ours(broken=broken)}
    for name, make in (
        ("pybreaker", _pybreaker),
        ("interlock-cb", _interlock),
        ("nopanic", _nopanic),
    ):
        try:
            found[name] = make(broken=broken)
        except ImportError:
            continue
    return found


def _ours(*, broken: bool) -> Guard:
    policy = RetryPolicy(breaker=Breaker(min_calls=1, open=1e6) if broken else Breaker())
    guard = guard_for(policy, "bench")
    if guard is None:
        raise AssertionError("a policy with a breaker has a guard")
    if broken:
        _break(lambda: guard.attempt(_fails, None, []))
    return lambda function: guard.attempt(function, None, [])


def _pybreaker(*, broken: bool) -> Guard:
    pybreaker = importlib.import_module("pybreaker")
    breaker = pybreaker.CircuitBreaker(fail_max=1 if broken else 20, reset_timeout=1e6)
    if broken:
        _break(lambda: breaker.call(_fails))
    guard: Guard = breaker.call
    return guard


def _interlock(*, broken: bool) -> Guard:
    interlock = importlib.import_module("interlock")
    # A window of time, as ours: the rate over the last 30 s, from 20 calls on.
    config = interlock.Config(
        minimum_number_of_calls=1 if broken else 20,
        window_type=interlock.WindowType.TIME_BASED,
        window_size=30,
        wait_duration_in_open=1e6,
    )
    breaker = interlock.CircuitBreaker(name="bench", config=config)
    if broken:
        _break(lambda: breaker.call(_fails))
    guard: Guard = breaker.call
    return guard


def _nopanic(*, broken: bool) -> Guard:
    nopanic = importlib.import_module("nopanic")
    breaker = nopanic.circuit_breaker(min_calls=1 if broken else 20, reset_timeout=1e6)
    if broken:
        _break(lambda: breaker.call(_fails))
    guard: Guard = breaker.call
    return guard


def _fails() -> None:
    raise ConnectionResetError("reset")


def _break(call: Callable[[], object]) -> None:
    with suppress(Exception):
        call()


def around_a_success(effort: Effort) -> Section:
    """A closed circuit."""

    def function() -> int:
        return 1

    calls: dict[str, Callable[[], object]] = {}
    for name, guard in guards(broken=False).items():
        calls[name] = partial(guard, function)
    taken = alternate(calls, effort)
    rows = [[n, figure(taken.us(n)), f"{taken.ratio(n, OURS):.2f}"] for n in calls]
    text = "An empty function behind a closed circuit, without a retry."
    columns = ["", "µs", f"to {OURS}"]
    return Section("A closed circuit breaker", text, columns, rows, _bounds(taken, list(calls)))


def rejection(effort: Effort) -> Section:
    """An open circuit."""

    def function() -> int:
        raise AssertionError("an open circuit lets nothing through")

    def rejected(guard: Guard) -> Callable[[], None]:
        def call() -> None:
            try:
                guard(function)
            except AssertionError:
                raise
            except Exception:  # noqa: S110 - everybody has a class of his own for it
                pass

        return call

    broken = guards(broken=True)
    taken = alternate({name: rejected(guard) for name, guard in broken.items()}, effort)
    rows = [[n, figure(taken.us(n)), f"{taken.ratio(n, OURS):.2f}"] for n in broken]
    text = "A call that an open circuit rejects with an exception, caught outside."
    columns = ["", "µs", f"to {OURS}"]
    return Section("An open circuit breaker", text, columns, rows, _bounds(taken, list(broken)))


def _bounds(taken: Any, names: list[str]) -> list[Bound]:
    others = [name for name in names if name != OURS]
    if not others:
        return []
    best = taken.fastest(others)
    return [Bound(f"to the fastest peer, {best}", taken.ratio(OURS, best), 1.0)]


if __name__ == "__main__":
    for section in sections(FULL):
        print(section, end="\n\n")

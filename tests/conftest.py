"""What every test has: a home apart, the default policies, and a clock it may move."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from unittest.mock import patch

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from support.observers import observer_faults
from support.postgres_fixtures import postgres_of_session, postgres_server, postgres_url
from support.redis_fixtures import redis_of_session, redis_server, redis_url
from support.relay_checks import relay_checks_end_with_test

import iii_resilience.core.codes.lookup
from iii_resilience import use_policies
from iii_resilience.config.default_book import default_book
from iii_resilience.core import observers, system_clock
from iii_resilience.core.guards.scopes import forget_all

# A session fixture that several files import would start a server for each of them.
__all__ = [
    "observer_faults",
    "postgres_of_session",
    "postgres_server",
    "postgres_url",
    "redis_of_session",
    "redis_server",
    "redis_url",
    "relay_checks_end_with_test",
]

# How long an example takes says something of the machine, nothing of the library. The same examples
# each time, so that a change is what makes a test fail; `make test-long` looks for others.
settings.register_profile(
    "same-examples",
    deadline=None,
    derandomize="III_LONG" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
# For `make mutate`: a mutant that fails need not be explained, and every one meets these tests.
# They run more than once in a process, each time on other instances of the test classes.
settings.register_profile(
    "brief",
    deadline=None,
    max_examples=25,
    phases=[Phase.explicit, Phase.generate],
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("same-examples")

# Nothing that is imported or collected becomes garbage, and to look for some takes a second.
gc.disable()


def pytest_collection_finish() -> None:
    """Spare the garbage collector the tests themselves: most of the objects there are."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """While mutmut records which test reaches what, collect garbage between tests only.

    It keeps the callers in a context variable. On CPython 3.11 a finalizer that is recorded too (a
    lost permit's) leaves a freed value in there, if the collector runs it in the middle of a
    reset: then tests fail, or the interpreter crashes.
    """
    if os.environ.get("MUTANT_UNDER_TEST") == "stats":
        gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests first: those start processes and wait, and none of them should be last."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The SDK writes into the home directory, and its telemetry looks for an engine.

    One for all tests of a process: most tests write nothing, and a folder of its own for each
    of them takes longer than many of them do.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patched.setenv("OTEL_ENABLED", "false")
        yield


@pytest.fixture(autouse=True)
def observers_are_sound(request: pytest.FixtureRequest) -> Iterator[None]:
    """What an observer raises is kept from the calls, so a test would not notice it otherwise."""
    expected = "observer_faults" in request.fixturenames
    observers._reported.clear()
    yield
    assert expected or not observers._reported


@pytest.fixture(autouse=True)
def same_policies_after() -> Iterator[None]:
    before, codes = default_book(), dict(iii_resilience.core.codes.lookup._user)
    yield
    use_policies(before)
    iii_resilience.core.codes.lookup._user.clear()
    iii_resilience.core.codes.lookup._user.update(codes)


@pytest.fixture(autouse=True)
def own_guards() -> None:
    """What other tests have taken from budgets, or counted in circuits, is theirs."""
    forget_all()


@attrs.define
class FakeClock:
    """A clock that only moves when something sleeps.

    Attributes:
        now: Monotonic time in seconds.
        slept: Every delay slept, in seconds.
        until: When each of them was meant to end.
        late: How much longer than asked every sleep takes, in seconds.
    """

    now: float = 1000.0
    slept: list[float] = attrs.field(factory=list)
    until: list[float] = attrs.field(factory=list)
    late: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.until.append(self.now + seconds)
        self.now += seconds + self.late

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


ClockMaker = Callable[[], AbstractContextManager[FakeClock]]


@pytest.fixture(scope="session")
def fake_clock() -> ClockMaker:
    """Makes clocks in place of `time` and `asyncio.sleep`; Hypothesis needs one an example."""

    @contextmanager
    def make() -> Iterator[FakeClock]:
        clock = FakeClock()
        with ExitStack() as stack:
            stack.enter_context(patch.object(time, "monotonic", clock.monotonic))
            stack.enter_context(patch.object(time, "sleep", clock.sleep))
            stack.enter_context(patch.object(asyncio, "sleep", clock.sleep_async))
            stack.enter_context(patch.object(system_clock, "monotonic", clock.monotonic))
            stack.enter_context(patch.object(system_clock, "sleep", clock.sleep))
            yield clock

    return make


@pytest.fixture
def clock(fake_clock: ClockMaker) -> Iterator[FakeClock]:
    with fake_clock() as made:
        yield made

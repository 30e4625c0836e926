"""Hypothesis strategies for books that a file can hold: whole milliseconds, nothing of tenacity."""

from __future__ import annotations

from hypothesis import strategies as st

from iii_resilience import Backoff, Breaker, Budget, Bulkhead, Category, Enqueue, PolicyBook
from iii_resilience import RetryPolicy as Policy
from iii_resilience.config.queue_definition import Queue
from iii_resilience.config.rules import Rule
from iii_resilience.core.backoff import JITTERS
from iii_resilience.core.codes.lookup import Code, Execution, find
from iii_resilience.core.policy import Reroute

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
NAMES = TEXT | st.sampled_from(["yes", "no", "null", "~", "1", "1e3", "0x1", "a: b", "- x", "#c"])
COUNTS = st.integers(1, 2**40)


def seconds(least: int = 1, most: int = 10**12) -> st.SearchStrategy[float]:
    """Whole milliseconds, as the seconds that a file's number becomes."""
    return st.integers(least, most).map(lambda milliseconds: milliseconds / 1000)


def numbers(
    least: float, most: float = 1e300, *, exclude_min: bool = False
) -> st.SearchStrategy[float]:
    return st.floats(least, most, exclude_min=exclude_min)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    cap = draw(st.integers(0, 10**12))
    base, throttled = draw(st.integers(0, cap)), draw(st.integers(0, cap))
    jitter = draw(st.sampled_from(JITTERS))
    return Backoff(base / 1000, draw(numbers(1)), cap / 1000, throttled / 1000, jitter)


BUDGETS = st.builds(Budget, numbers(0, 1), burst=numbers(1), min_per_second=numbers(0))
BREAKERS = st.builds(
    Breaker,
    numbers(0, 1, exclude_min=True),
    seconds(),
    COUNTS,
    seconds(),
    COUNTS,
    st.none() | seconds(),
)
BULKHEADS = st.builds(Bulkhead, COUNTS) | st.builds(Bulkhead, COUNTS, COUNTS, seconds())
FALLBACKS = st.builds(Enqueue, NAMES) | st.builds(Reroute, NAMES, st.none() | NAMES)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    deadline = draw(st.none() | st.integers(1, 10**12))
    longest = 10**12 if deadline is None else deadline
    timeout = draw(st.none() | seconds(1, longest))
    return Policy(
        attempts=draw(COUNTS),
        backoff=draw(backoffs()),
        deadline=None if deadline is None else deadline / 1000,
        attempt_timeout=timeout,
        budget=draw(st.none() | BUDGETS),
        breaker=draw(st.none() | BREAKERS),
        bulkhead=draw(st.none() | BULKHEADS),
        fallback=draw(st.none() | FALLBACKS),
        retry_unexecuted=draw(st.booleans()),
        ready_timeout=draw(seconds(0)),
        max_stops=draw(COUNTS),
        max_payload_bytes=draw(st.none() | COUNTS),
    )


@st.composite
def queues(draw: st.DrawFn) -> dict[str, Queue]:
    made = {}
    for name in draw(
        st.lists(NAMES.filter(lambda name: name == name.strip()), max_size=2, unique=True)
    ):
        group = draw(st.none() | NAMES)
        made[name] = Queue(
            name,
            draw(st.integers(0, 2**32 - 1)),
            draw(st.integers(1, 2**32 - 1)),
            draw(seconds()),
            draw(seconds(0)),
            draw(seconds()),
            "standard" if group is None else "fifo",
            group,
            draw(st.booleans()),
        )
    return made


@st.composite
def codes(draw: st.DrawFn) -> tuple[Code, ...]:
    names = draw(st.lists(NAMES.filter(lambda code: find(code) is None), max_size=2, unique=True))
    return tuple(
        Code(
            name,
            draw(st.sampled_from(Category)),
            draw(st.sampled_from(Execution)),
            draw(TEXT),
            draw(TEXT | st.just("")),
            draw(TEXT | st.just("")),
            draw(TEXT),
            draw(TEXT),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for name in names
    )


@st.composite
def books(draw: st.DrawFn) -> PolicyBook:
    named = draw(st.dictionaries(NAMES, policies(), max_size=3))
    known = st.sampled_from(sorted({*named, "default"}))
    functions = TEXT.filter(lambda function: "*" not in function[:-1])
    rules = draw(
        st.lists(
            st.builds(Rule, functions, st.none() | known, st.none() | st.booleans()), max_size=4
        )
    )
    return PolicyBook(named, rules, draw(known), codes=draw(codes()), queues=draw(queues()))

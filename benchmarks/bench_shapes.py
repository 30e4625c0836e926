"""What classifying costs, by the shape of the error, and choosing a policy among 10 000 rules.

Knows nothing of retries. `bench_classify` and `bench_rules` have more cases of each.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import bench_rules
from bench_classify import S102, InvocationError
from measure import FULL, Effort, alternate
from table import Section, figure

from iii_resilience import classify

SHAPES: dict[str, object] = {
    "exception of the SDK": InvocationError(
        "TIMEOUT", "invocation timed out after 30000ms", "orders::get"
    ),
    "wire error body": {"code": "timeout", "message": "timed out", "stacktrace": None},
    "JSON inside a message": InvocationError(
        "invocation_failed", f"handler error: {S102}", "sandbox::exec"
    ),
    "exception of Python": ConnectionResetError("reset"),
}


def sections(effort: Effort) -> Iterator[Section]:
    """Both tables."""
    yield shapes(effort)
    yield rules(effort)


def shapes(effort: Effort) -> Section:
    """The four shapes of an error; redress can be asked about exceptions."""
    calls: dict[str, Callable[[], object]] = {}
    for name, error in SHAPES.items():
        calls[name] = partial(classify, error)
    try:
        peer = importlib.import_module("redress").default_classifier
    except ImportError:
        peer = None
    if peer is not None:
        for name, error in SHAPES.items():
            if isinstance(error, Exception):
                calls[f"redress: {name}"] = partial(peer, error)
    taken = alternate(calls, effort)
    rows = []
    for name in SHAPES:
        other = f"redress: {name}"
        its = figure(taken.us(other)) if other in calls else "cannot"
        rows.append([name, figure(taken.us(name)), its])
    text = (
        "`classify` beside redress's `default_classifier`, which looks at classes and at "
        "attributes and never inside a message."
    )
    return Section("Classifying an error", text, ["", "µs", "redress, µs"], rows)


def rules(effort: Effort) -> Section:
    """A book of ten thousand rules, and one of ten."""
    many, few = bench_rules.book_of(), bench_rules.book_of(10)
    numbers = itertools.count()
    calls: dict[str, Callable[[], object]] = {
        "an id seen before": lambda: many.for_function("orders::17"),
        "an id never seen, a prefix covers it": lambda: many.for_function(
            f"team-4999::{next(numbers)}"
        ),
        "an id never seen, no rule covers it": lambda: many.for_function(
            f"reports::{next(numbers)}"
        ),
        "an id never seen, ten rules": lambda: few.for_function(f"reports::{next(numbers)}"),
    }
    taken = alternate(calls, effort)
    rows = [[name, figure(taken.us(name))] for name in calls]
    text = "`PolicyBook.for_function` with 10 000 rules, which every `worker.trigger` begins with."
    return Section("Choosing a policy among 10 000 rules", text, ["", "µs"], rows)


if __name__ == "__main__":
    for section in sections(FULL):
        print(section, end="\n\n")

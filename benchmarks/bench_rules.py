"""What choosing the policy of a call costs among ten thousand rules, in microseconds.

Prints one line for each case. Knows nothing of calls: `PolicyBook.for_function` is what every
call of `worker.trigger` begins with.
"""

from __future__ import annotations

import itertools
import timeit
from collections.abc import Callable

from iii_resilience import PolicyBook, RetryPolicy
from iii_resilience.config.rules import Rule

RULES = 10_000


def book_of(rules: int = RULES) -> PolicyBook:
    """Half exact ids, half prefixes of many lengths."""
    exact = [Rule(f"orders::{n}", "a") for n in range(rules // 2)]
    prefixes = [Rule(f"{'team-' * (n % 7)}{n}::*", "b", idempotent=True) for n in range(rules // 2)]
    return PolicyBook({"a": RetryPolicy(), "b": RetryPolicy()}, exact + prefixes)


def microseconds(call: Callable[[], object], number: int = 20_000) -> float:
    """The best of ten runs, in microseconds for one call."""
    return min(timeit.repeat(call, number=number, repeat=10)) / number * 1e6


def cases() -> dict[str, float]:
    """Microseconds by what is looked for."""
    book = book_of()
    known = itertools.cycle([f"orders::{n}" for n in range(RULES)])
    for _ in range(RULES):
        book.for_function(next(known))
    numbers = itertools.count()
    return {
        "one id, again": microseconds(lambda: book.for_function("team-team-4::save")),
        "ten thousand ids in turn, again": microseconds(lambda: book.for_function(next(known))),
        "an id never seen, no rule": microseconds(
            lambda: book.for_function(f"reports::{next(numbers)}::of::the::day")
        ),
        "an id never seen, a prefix": microseconds(
            lambda: book.for_function(f"team-4999::{next(numbers)}")
        ),
    }


def main() -> None:
    """Print the table."""
    for name, taken in cases().items():
        print(f"{name:36} {taken:7.2f} µs")


if __name__ == "__main__":
    main()

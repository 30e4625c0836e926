"""Choosing a policy among ten thousand rules: what it costs, and what it remembers."""

from __future__ import annotations

import itertools
import timeit

import bench_rules

from iii_resilience import PolicyBook, RetryPolicy
from iii_resilience.config.policy_set import _REMEMBERED
from iii_resilience.config.rules import Rule


def test_known_function_costs_at_most_two_microseconds() -> None:
    book = bench_rules.book_of()
    assert len(book.policy_set.rules) == 10_000
    known = itertools.cycle([f"orders::{n}" for n in range(10_000)])
    for _ in range(10_000):
        book.for_function(next(known))
    # The best of many short runs: a busy machine disturbs the others.
    taken = min(timeit.repeat(lambda: book.for_function(next(known)), number=1_000, repeat=50))
    assert taken / 1_000 <= 2e-6


def test_new_function_does_not_cost_look_at_every_rule() -> None:
    few, many = bench_rules.book_of(100), bench_rules.book_of()
    numbers = itertools.count()

    def cost(book: PolicyBook) -> float:
        return min(
            timeit.repeat(lambda: book.for_function(f"new::{next(numbers)}"), number=200, repeat=25)
        )

    assert cost(many) < 10 * cost(few)


def test_memory_of_lookups_is_bounded() -> None:
    book = PolicyBook({"a": RetryPolicy(attempts=2)}, [Rule("f::*", "a")])
    for number in range(_REMEMBERED + 50):
        book.for_function(f"f::{number}")
    assert len(book.policy_set._selected) == _REMEMBERED
    assert "f::0" not in book.policy_set._selected
    assert book.for_function("f::0").name == "a"
    assert len(book.policy_set._selected) == _REMEMBERED

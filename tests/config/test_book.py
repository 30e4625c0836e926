"""Which policy a function gets, and the book that is used where none is given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_resilience import PolicyBook, RetryPolicy, use_policies
from iii_resilience.config.default_book import default_book
from iii_resilience.config.policy_set import SelectedPolicy
from iii_resilience.config.rules import Rule

A, B, C = (RetryPolicy(attempts=n) for n in (2, 3, 5))


def book(*rules: Rule, **more: Any) -> PolicyBook:
    return PolicyBook({"a": A, "b": B, "c": C}, rules, **more)


def test_empty_book_has_default_policy() -> None:
    assert PolicyBook().for_function("x") == SelectedPolicy("default", RetryPolicy())
    assert PolicyBook({"default": A}).policy_set.policy("default") is A


def test_function_without_rule_gets_books_default() -> None:
    assert book(default="b").for_function("x") == SelectedPolicy("b", B)


def test_exact_rule_comes_before_any_pattern() -> None:
    rules = [Rule("orders::pay*", "a"), Rule("orders::pay", "b"), Rule("*", "c")]
    for order in (rules, rules[::-1]):
        assert book(*order).for_function("orders::pay").name == "b"
        assert book(*order).for_function("orders::payout").name == "a"
        assert book(*order).for_function("other").name == "c"


def test_longest_prefix_wins_whatever_order() -> None:
    rules = [Rule("*", "c"), Rule("orders::*", "a"), Rule("orders::eu::*", "b")]
    for order in (rules, rules[::-1]):
        assert book(*order).for_function("orders::eu::pay").name == "b"
        assert book(*order).for_function("orders::us").name == "a"


def test_of_two_rules_alike_first_wins() -> None:
    assert book(Rule("x*", "a"), Rule("x*", "b")).for_function("xy").name == "a"
    assert book(Rule("x", "b"), Rule("x", "a")).for_function("x").name == "b"


def test_rule_without_policy_only_sets_idempotent() -> None:
    made = book(Rule("read::*", idempotent=True), Rule("read::once", "b", idempotent=False))
    assert made.for_function("read::x") == SelectedPolicy("default", RetryPolicy(), True)
    assert made.for_function("read::once") == SelectedPolicy("b", B, False)


RULES = st.lists(
    st.builds(
        Rule,
        function=st.text(alphabet="ab", min_size=1, max_size=3)
        | st.text(alphabet="ab", max_size=3).map(lambda prefix: prefix + "*"),
        policy=st.sampled_from("abc"),
    ),
    max_size=6,
)


@given(RULES, st.text(alphabet="ab", min_size=1, max_size=4))
def test_choice_is_that_of_documented_order(rules: list[Rule], function: str) -> None:
    exact = [rule for rule in rules if rule.function == function]
    patterns = [
        rule
        for rule in rules
        if rule.function.endswith("*") and function.startswith(rule.function[:-1])
    ]
    longest = max((len(rule.function) for rule in patterns), default=0)
    ranked = exact + [rule for rule in patterns if len(rule.function) == longest]
    expected = ranked[0].policy if ranked else "default"
    assert book(*rules).for_function(function).name == expected


def test_unknown_name_lists_nearest_and_all_names() -> None:
    made = PolicyBook({"payments": A, "reports": B})
    message = (
        r"^no policy is named 'paymnets'; did you mean 'payments'\? "
        r"\(there are: default, payments, reports\)$"
    )
    with pytest.raises(ValueError, match=message):
        made.policy_set.policy("paymnets")
    with pytest.raises(ValueError, match=r"^no policy is named 'zzz' \(there are: "):
        made.policy_set.policy("zzz")


@pytest.mark.parametrize("more", [{"default": "x"}, {"rules": [Rule("f", "x")]}])
def test_book_that_names_policy_it_does_not_have_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no policy is named 'x'"):
        PolicyBook({"a": A}, **more)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"function": ""},
            "Rule.function must be a function id, or a prefix followed by one \\*, got ''",
        ),
        (
            {"function": 5},
            "Rule.function must be a function id, or a prefix followed by one \\*, got 5",
        ),
        (
            {"function": None},
            "Rule.function must be a function id, or a prefix followed by one \\*, got None",
        ),
        ({"function": "f", "policy": 5}, "Rule.policy must be the name of a policy or None, got 5"),
        ({"function": "a*b"}, "Rule.function must be a function id, or a prefix"),
        ({"function": "f", "idempotent": "no"}, "Rule.idempotent must be true or false, got 'no'"),
        ({"function": "f", "idempotent": 1}, "Rule.idempotent must be true or false, got 1"),
    ],
)
def test_rule_of_wrong_types_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(**fields)


def test_book_is_not_changed_by_the_mapping_it_was_made_from() -> None:
    policies = {"a": A}
    made = PolicyBook(policies)
    policies["b"] = B
    assert set(made.policy_set.policies) == {"a", "default"}
    assert set(policies) == {"a", "b"}


def test_use_policies_returns_book_it_replaces() -> None:
    before, made = default_book(), book()
    assert use_policies(made) is before
    assert default_book() is made
    assert use_policies(before) is made


@pytest.mark.parametrize("wrong", [None, "policies.yaml", {"a": A}, A])
def test_use_policies_takes_nothing_but_book(wrong: Any) -> None:
    before = default_book()
    with pytest.raises(TypeError, match="use_policies takes a PolicyBook, got"):
        use_policies(wrong)
    assert default_book() is before

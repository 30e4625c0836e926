"""Warns of what a policy file allows and an outage punishes, without running anything.

Each warning has its place in the file and its remedy. `check` and `show` print them; loading a file
does not. Knows nothing of terminals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from iii_resilience.config.files.nodes import Path, Problem, dotted
from iii_resilience.config.files.validate import Origins
from iii_resilience.config.policy_set import PolicySet
from iii_resilience.config.rules import Rule
from iii_resilience.core.backoff import Backoff
from iii_resilience.core.policy import RetryPolicy

_FEW = 2  # attempts that need no budget: they double the load at worst
_LONG = 600.0  # seconds of delays after which few callers still want their answer
_COUNTED = 1000  # retries whose delays are added up
_TRICKLE = 1.0  # retries a second of one process that are many for a fleet
_SEPARATOR = "::"
_OTHER = re.compile(r"[.:/]+")

Finding = tuple[Path, str]


def lint(policy_set: PolicySet, policy: str | None = None) -> tuple[Problem, ...]:
    """What is allowed in the files of a book, and does damage in an outage or nothing at all.

    Args:
        policy_set: What the book says. Without files nothing has a place, and nothing is found.
        policy: The only policy to look at; None for all of them.

    Returns:
        The warnings in the order of the policies and rules, each once.
    """
    origins = policy_set.origins
    if not isinstance(origins, Origins):
        return ()
    found: dict[tuple[object, ...], Problem] = {}
    for name, node in origins.policies.items():
        if policy is None or name == policy:
            for path, what in _in_policy(policy_set.policies[name]):
                problem = Problem(node.at(path), dotted(("policies", name, *path)), what)
                found.setdefault((problem.mark, what), problem)  # not again where it is extended
    for index, (rule, mark) in enumerate(zip(policy_set.rules, origins.rules, strict=True)):
        for what in _in_rule(rule):
            problem = Problem(mark, dotted(("rules", index, "function")), what)
            found.setdefault((mark, what), problem)
    return tuple(found.values())


def _in_policy(policy: RetryPolicy) -> Iterator[Finding]:
    if policy.attempts == 1:
        return
    backoff, attempts, deadline = policy.backoff, policy.attempts, policy.deadline
    if policy.budget is None and attempts > _FEW:
        yield (
            ("budget",),
            (
                f"limits no retries: {attempts} attempts make {attempts} times the load of an "
                "outage (leave budget out for the usual one, or set attempts to 2)"
            ),
        )
    elif policy.budget is not None and policy.budget.min_per_second >= _TRICKLE:
        each = policy.budget.min_per_second
        yield (
            ("budget", "min_per_second"),
            (
                f"is for each process: 100 processes may send {100 * each:g} retries a second in "
                "an outage (leave it out)"
            ),
        )
    if deadline is None and _delays(backoff, attempts) > _LONG:
        yield (
            ("deadline_ms",),
            (
                f"is null, and {attempts} attempts may wait {_delays(backoff, attempts):.0f} s or "
                "more (set deadline_ms to what a caller waits)"
            ),
        )
    if deadline is not None and deadline <= backoff.base:
        yield (
            ("deadline_ms",),
            (
                f"leaves no time for a retry: the delay before it is up to {_ms(backoff.base)} "
                "(raise deadline_ms, lower backoff.base_ms, or set attempts to 1)"
            ),
        )
    timeout = policy.attempt_timeout
    if deadline is not None and timeout is not None and timeout + backoff.base > deadline:
        yield (
            ("attempt_timeout_ms",),
            (
                f"leaves no time for a retry: {_ms(timeout)} and a delay of up to "
                f"{_ms(backoff.base)} are above the deadline of {_ms(deadline)} (lower it, or "
                "raise deadline_ms)"
            ),
        )
    if min(backoff.base, backoff.cap) == 0:
        yield (
            ("backoff",),
            (
                "has no delays: the retries of all callers follow at once (leave base_ms and "
                "cap_ms out for the usual ones)"
            ),
        )
    elif backoff.jitter == "none":
        yield (
            ("backoff", "jitter"),
            "is none: callers that fail together retry together (write jitter: full)",
        )


def _in_rule(rule: Rule) -> Iterator[str]:
    function = rule.function
    if function != function.strip():
        yield "can never match: it begins or ends with a space (remove the space)"
    elif _SEPARATOR not in function and _OTHER.search(function):
        meant = _OTHER.sub(_SEPARATOR, function)
        yield f"covers no id such as orders::save: ids are written with :: (write {meant!r})"
    if rule.policy is None and rule.idempotent is None:
        yield "says nothing: neither a policy nor idempotent (add one, or remove the rule)"


def _delays(backoff: Backoff, attempts: int) -> float:
    """The longest that the delays of a call can take together, in seconds."""
    total, ceiling = 0.0, backoff.base
    for _ in range(min(attempts - 1, _COUNTED)):
        total += min(ceiling, backoff.cap)
        ceiling = min(ceiling * backoff.factor, backoff.cap)
    return total


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.15g} ms"

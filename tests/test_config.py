"""Policy files: what they may hold, and how everything else is refused, with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iii_resilience import (
    Backoff,
    Budget,
    Category,
    ConfigError,
    Enqueue,
    PolicyBook,
    RetryPolicy,
    classify,
    load_policies,
    use_policies,
)
from iii_resilience.book import Rule

SHIPPED = Path(__file__).parent.parent / "policies"


def load(folder: Path, text: str | bytes) -> PolicyBook:
    path = folder / "p.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_policies(path)


def problems(folder: Path, text: str | bytes) -> list[str]:
    """The problems of a file, each with the file's name cut off."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert str(caught.value) == "\n".join(caught.value.problems)
    name = str(folder / "p.yaml")
    assert all(problem.startswith(name) for problem in caught.value.problems)
    return [problem[len(name) + 1 :].strip() for problem in caught.value.problems]


def test_the_shipped_default_is_the_built_in_policy() -> None:
    book = load_policies(SHIPPED / "default.yaml")
    assert book == PolicyBook({"default": RetryPolicy()})
    assert load_policies(str(SHIPPED / "default.yaml")) == book


def test_the_built_in_policy_never_retries_what_is_not_idempotent() -> None:
    for path in SHIPPED.glob("*.yaml"):
        for policy in load_policies(path).policies.values():
            assert not policy.retry_unexecuted


FULL = """\
version: 1
policies:
  careful:
    attempts: 2
    deadline_ms: 1500
    attempt_timeout_ms: 500
    backoff: {base_ms: 10, factor: 1.5, cap_ms: 100, throttled_base_ms: 50, jitter: equal}
    budget: {ratio: 0.1, min_per_second: 1, window_ms: 5000}
    ready_timeout_ms: 0
    retry_unexecuted: true
    max_stops: 1
    fallback: {enqueue: later}
  endless: {extends: careful, deadline_ms: null, budget: null, fallback: null}
rules:
  - {function: orders::pay, policy: careful, idempotent: true}
  - {function: "orders::*", idempotent: false}
default: endless
"""
CAREFUL = RetryPolicy(
    attempts=2,
    deadline=1.5,
    attempt_timeout=0.5,
    backoff=Backoff(0.01, 1.5, 0.1, 0.05, "equal"),
    budget=Budget(0.1, 1, 5.0),
    ready_timeout=0,
    retry_unexecuted=True,
    max_stops=1,
    fallback=Enqueue("later"),
)


def test_every_field_can_be_set_in_a_file(tmp_path: Path) -> None:
    assert load(tmp_path, FULL) == PolicyBook(
        {
            "careful": CAREFUL,
            "endless": CAREFUL.replace(deadline=None, budget=None, fallback=None),
        },
        (Rule("orders::pay", "careful", True), Rule("orders::*", None, False)),
        "endless",
    )


def test_a_mapping_is_loaded_like_a_file() -> None:
    book = load_policies({"version": 1, "policies": {"a": {"deadline_ms": 250}}, "default": "a"})
    assert book.for_function("x").policy == RetryPolicy(deadline=0.25)


@pytest.mark.parametrize("rest", ["", "policies:\n", "rules:\n", "policies: {}\nrules: []\n"])
def test_what_is_left_out_is_the_default(tmp_path: Path, rest: str) -> None:
    assert load(tmp_path, "version: 1\n" + rest) == PolicyBook()


def test_text_with_a_byte_order_mark_or_in_utf_16_is_read(tmp_path: Path) -> None:
    for text in ("version: 1\n".encode("utf-8-sig"), "version: 1\n".encode("utf-16")):
        assert load(tmp_path, text) == PolicyBook()


def test_policies_extend_one_another_and_each_overrides_whole_fields(tmp_path: Path) -> None:
    text = (
        "version: 1\npolicies:\n"
        "  c: {extends: b, attempts: 9}\n"
        "  b: {extends: a, deadline_ms: 1000}\n"
        "  a: {attempts: 2, max_stops: 7, backoff: {base_ms: 1}}\n"
    )
    book = load(tmp_path, text)
    a = RetryPolicy(attempts=2, max_stops=7, backoff=Backoff(base=0.001))
    assert book.policy("b") == a.replace(deadline=1.0)
    assert book.policy("c") == a.replace(deadline=1.0, attempts=9)


def test_each_policy_of_a_file_has_a_budget_of_its_own(tmp_path: Path) -> None:
    book = load(tmp_path, "version: 1\npolicies:\n  a: {}\n  b: {extends: a}\n")
    a, b = book.policy("a").budget, book.policy("b").budget
    assert a is not None
    assert b is not None
    assert a.window_for() is not b.window_for()


WRONG_IN_A_POLICY = [
    ("attempts: 0", "4:6: policies.a.attempts: must be a whole number at least 1, got 0"),
    ("attempts: 2.5", "4:6: policies.a.attempts: must be a whole number at least 1, got 2.5"),
    ("attempts: yes", "4:6: policies.a.attempts: must be a whole number at least 1, got True"),
    ("attempts: many", "4:6: policies.a.attempts: must be a whole number at least 1, got 'many'"),
    ("attempts:", "4:6: policies.a.attempts: must be a whole number at least 1, got None"),
    (
        "deadline_ms: 0",
        "4:6: policies.a.deadline_ms: must be a finite number of seconds above 0 or None, got 0.0",
    ),
    (
        "deadline_ms: 1.5",
        "4:6: policies.a.deadline_ms: must be a whole number of milliseconds, got 1.5",
    ),
    (
        "deadline_ms: 5s",
        "4:6: policies.a.deadline_ms: must be a whole number of milliseconds, got '5s'",
    ),
    (
        "deadline_ms: " + "9" * 400,
        "4:6: policies.a.deadline_ms: must be a number that a clock can hold",
    ),
    ("deadline: 5", "3:4: policies.a: has no deadline"),
    ("atempts: 5", "3:4: policies.a: has no atempts"),
    ("wait: 5", "3:4: policies.a: has no wait"),
    ("stop: 5", "3:4: policies.a: has no stop"),
    ("backoff: 5", "4:6: policies.a.backoff: must be a mapping"),
    ("backoff:", "4:6: policies.a.backoff: must be a mapping"),
    ("backoff: {base: 5}", "4:6: policies.a.backoff: has no base"),
    (
        "backoff: {factor: 0}",
        "4:16: policies.a.backoff.factor: must be a finite number at least 1, got 0",
    ),
    (
        "backoff: {jitter: a @ b}",
        (
            "4:16: policies.a.backoff.jitter: must be one of full, equal, decorrelated, none, "
            "got 'a @ b'"
        ),
    ),
    (
        "backoff: {base_ms: 30000}",
        "4:6: policies.a.backoff: Backoff.base (30 s) must not be above Backoff.cap (20 s)",
    ),
    (
        "budget: {ratio: .nan}",
        "4:15: policies.a.budget.ratio: must be a finite number at least 0, got nan",
    ),
    (
        "budget: {window_ms: 0}",
        "4:15: policies.a.budget.window_ms: must be a finite number of seconds above 0, got 0.0",
    ),
    ("budget: {_windows: {}}", "4:6: policies.a.budget: has no _windows"),
    ("fallback: {}", "4:6: policies.a.fallback.enqueue: needs enqueue"),
    ("fallback: {queue: q}", "4:6: policies.a.fallback.enqueue: needs enqueue"),
    ("fallback: q", "4:6: policies.a.fallback: must be a mapping"),
    (
        "fallback: {reroute: ''}",
        "4:17: policies.a.fallback.reroute: must be the id of a function, got ''",
    ),
    (
        "fallback: {enqueue: 5}",
        "4:17: policies.a.fallback.enqueue: must be the name of a queue, got 5",
    ),
    (
        "retry_unexecuted: 1",
        "4:6: policies.a.retry_unexecuted: must be <class 'bool'> (got 1 that is a <class 'int'>).",
    ),
    (
        "{attempt_timeout_ms: 2, deadline_ms: 1}",
        (
            "3:4: policies.a: RetryPolicy.attempt_timeout (0.002 s) must not be above "
            "RetryPolicy.deadline (0.001 s): one attempt would outlast the call"
        ),
    ),
    ("extends: b", "4:6: policies.a.extends: names no policy: 'b' (there are: a)"),
    ("extends: [a]", "4:6: policies.a.extends: names no policy: ['a'] (there are: a)"),
    ("extends: a", "4:6: policies.a.extends: makes the policy extend itself"),
    ("5", "3:4: policies.a: must be a mapping"),
    ("[]", "3:4: policies.a: must be a mapping"),
]


@pytest.mark.parametrize(("line", "problem"), WRONG_IN_A_POLICY)
def test_a_wrong_policy_is_refused_with_line_and_column(
    tmp_path: Path, line: str, problem: str
) -> None:
    text = f"version: 1\npolicies: \n   a:\n     {line}\n"
    assert problem in problems(tmp_path, text)


WRONG = [
    ("", "the file: must be a mapping with version, policies, rules and default"),
    ("[]", "1:1: the file: must be a mapping with version, policies, rules and default"),
    ("policies: {}", "1:1: version: must be 1, the only version there is"),
    ("version: 2", "1:1: version: must be 1, the only version there is"),
    ("version: '1'", "1:1: version: must be 1, the only version there is"),
    ("version: true", "1:1: version: must be 1, the only version there is"),
    (
        "version: 1\npolices: {}",
        "2:1: polices: is no key of a policy file (allowed: version, policies, rules, default",
    ),
    ("version: 1\npolicies: []", "2:1: policies: must be a mapping of names to policies"),
    ("version: 1\npolicies: 0", "2:1: policies: must be a mapping of names to policies"),
    ("version: 1\npolicies: {1: {}}", "2:12: keys must be text"),
    ("version: 1\nrules: {}", "2:1: rules: must be a list of {function, policy, idempotent}"),
    ("version: 1\nrules: 0", "2:1: rules: must be a list of {function, policy, idempotent}"),
    ("version: 1\nrules: [5]", "2:9: rules.0: must be a mapping"),
    ("version: 1\nrules: [{policy: default}]", "2:9: rules.0.function: needs function"),
    ("version: 1\nrules: [{function: 5}]", "2:10: rules.0.function: must be a name, got 5"),
    ("version: 1\nrules: [{function: ''}]", "2:10: rules.0.function: must be a name, got ''"),
    (
        "version: 1\nrules: [{function: a*b}]",
        "2:10: rules.0.function: must be a function id, or a prefix followed by one *",
    ),
    (
        "version: 1\nrules: [{function: f, policy: x}]",
        "2:23: rules.0.policy: names no policy: 'x' (there are: default)",
    ),
    (
        "version: 1\nrules: [{function: f, policy: [x]}]",
        "2:23: rules.0.policy: must be a name, got ['x']",
    ),
    (
        "version: 1\nrules: [{function: f, idempotent: 'no'}]",
        "2:23: rules.0.idempotent: must be true or false, got 'no'",
    ),
    ("version: 1\nrules: [{function: f, attempts: 3}]", "2:9: rules.0: has no attempts"),
    ("version: 1\ndefault: x", "2:1: default: names no policy: 'x' (there are: default)"),
    ("version: 1\ndefault:", "2:1: default: names no policy: None (there are: default)"),
    ("version: 1\ndefault: [x]", "2:1: default: names no policy: ['x'] (there are: default)"),
    ("version: 1\nversion: 1", "2:1: version: is given twice"),
    (
        "version: 1\npolicies:\n  a: {attempts: 1, attempts: 2}",
        "3:20: policies.a.attempts: is given twice",
    ),
    ("version: 1\n? [a]\n: 1", "2:3: keys must be text"),
    ("a: &x 1\nb: *x", "2:4: aliases and tags are not used in policy files"),
    ("version: !!int 1", "1:10: aliases and tags are not used in policy files"),
    ("a: !!python/name:os.system", "1:4: aliases and tags are not used in policy files"),
    ("version: 1\n---\nversion: 1", "2:1: but found another document"),
    ("version: 1: 2", "1:11: mapping values are not allowed here"),
    ("version: 2024-99-99", "1:10: '2024-99-99' is no value: put text in quotes"),
    ("version: 0b_", "1:10: '0b_' is no value: put text in quotes"),
    ("version: " + "9" * 5_000, f"1:10: '{'9' * 40}' is no value: put text in quotes"),
    ("[" * 16 + "]" * 16, "1:1: the file: must be a mapping with"),
    ("[" * 17 + "]" * 17, "1:17: is nested too deep (at most 16 levels)"),
    ("[" * 500_000, "1:17: is nested too deep (at most 16 levels)"),
    ("{a: " * 200_000, "1:65: is nested too deep (at most 16 levels)"),
    ("- " * 400_000, "1:33: is nested too deep (at most 16 levels)"),
    (b"\xff", "is not YAML"),
    (b"version: \xc3(", "is not YAML"),
    (b"version: 1\x00", "is not YAML"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_file_is_refused_with_line_and_column(
    tmp_path: Path, text: str | bytes, problem: str
) -> None:
    found = problems(tmp_path, text)
    assert any(each.startswith(problem) for each in found), found


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = (
        "version: 3\nextra: 1\npolicies:\n  a: {attempts: 0}\n  b: {wait: 1}\n"
        "rules: [5]\ndefault: x\n"
    )
    places = [problem.split(": ")[1] for problem in problems(tmp_path, text)]
    assert places == ["extra", "version", "policies.a.attempts", "policies.b", "rules.0", "default"]


@pytest.mark.parametrize("length", [2, 3, 40])
def test_policies_that_extend_one_another_in_a_circle_are_refused(
    tmp_path: Path, length: int
) -> None:
    lines = [f"  p{n}: {{extends: p{(n + 1) % length}}}" for n in range(length)]
    found = problems(tmp_path, "version: 1\npolicies:\n" + "\n".join(lines))
    assert found[0].startswith("3:8: policies.p0.extends: ")


def test_a_chain_of_policies_longer_than_anybody_reads_is_refused(tmp_path: Path) -> None:
    lines = [f"  p{n}: {{extends: p{n + 1}}}" for n in range(3_000)]
    found = problems(tmp_path, "version: 1\npolicies:\n" + "\n".join([*lines, "  p3000: {}"]))
    assert found[0] == "3:8: policies.p0.extends: extends more than 32 policies"


def test_a_file_too_long_to_be_one_is_refused_unread(tmp_path: Path) -> None:
    comment = b"version: 1\n#" + b"x" * 1_000_000
    assert problems(tmp_path, comment) == ["is too long (at most 1000000 bytes)"]
    assert load(tmp_path, comment[:1_000_000]) == PolicyBook()
    with pytest.raises(ConfigError, match=r"^/dev/zero: is too long"):
        load_policies("/dev/zero")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/p.yaml", "^/nowhere/p.yaml: cannot be read: No such file or directory$"),
        ("/", "^/: cannot be read: Is a directory$"),
        (b"/nowhere", "^/nowhere: cannot be read: No such file or directory$"),
        ("a\0b", "cannot be read: embedded null byte$"),
    ],
)
def test_a_path_that_cannot_be_read_is_a_config_error(path: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policies(path)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "^<mapping>: version: must be 1"),
        ({"version": 1, 2: 3}, "^<mapping>: 2: is no key of a policy file"),
        ({"version": 1, "policies": {1: {}}}, "^<mapping>: policies: keys must be text, got 1$"),
        ({"version": 1, "policies": {"a": {1: 2}}}, "^<mapping>: policies.a: keys must be text$"),
        (
            {"version": 1, "policies": {"a": {"deadline_ms": 0}}},
            "^<mapping>: policies.a.deadline_ms: must be a finite number",
        ),
        ({"version": 1, "rules": [{"function": "f", 3: 4}]}, "rules.0: keys must be text"),
    ],
)
def test_a_wrong_mapping_is_refused_with_its_path(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policies(mapping)


KEYS: list[Any] = [
    *("version", "policies", "rules", "default", "function", "policy", "idempotent", "extends"),
    *("backoff", "budget", "attempts", "deadline_ms", "fallback", "enqueue", "a", 1),
]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("a"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


def loads_or_config_error(source: Any) -> None:
    try:
        book = load_policies(source)
    except ConfigError as error:
        told = bool(error.problems)
    else:
        told = isinstance(book, PolicyBook)
    assert told


@given(
    st.fixed_dictionaries(
        {"version": st.just(1)}, optional=dict.fromkeys(("policies", "rules", "default"), ANY)
    )
)
def test_no_mapping_raises_anything_but_a_config_error(mapping: dict[str, Any]) -> None:
    loads_or_config_error(mapping)


PIECES = [
    *("version: 1\n", "policies:\n", "  a:\n", "    attempts: ", "rules:\n", "- ", "{", "}", "["),
    *("]", ": ", "\n", " ", "&x ", "*x ", "!!int ", "!!bool ", "? ", "| ", "> ", "'", '"', "<<"),
    *("0x_", "1e999", "2001-02-30", "~", "#", "%YAML 1.2\n", "---\n", "\t", "\x85", "€"),
]
YAMLISH = st.lists(
    st.sampled_from(PIECES),
    max_size=15,
).map("".join)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies") / "p.yaml"


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.binary(max_size=80)
    | (st.text(max_size=80) | YAMLISH).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
@example(b"\xff\xfe\x00")
@example(b"a: !!bool foo")
@example(b"a: !!timestamp foo")
def test_no_file_raises_anything_but_a_config_error(scratch: Path, data: bytes) -> None:
    scratch.write_bytes(data)
    loads_or_config_error(scratch)


@pytest.mark.parametrize("value", [0, False, [], "x"])
def test_codes_of_the_wrong_type_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="codes: must be a mapping"):
        load_policies({"version": 1, "codes": value})


def test_codes_of_a_file_are_known_once_the_book_is_used() -> None:
    book = load_policies(
        {"version": 1, "codes": {"OUT_OF_PAPER": {"category": "transient", "remedy": "refill"}}}
    )
    use_policies(book)
    failure = classify("OUT_OF_PAPER")
    assert (failure.category, failure.remedy) == (Category.TRANSIENT, "refill")


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
def test_a_file_that_would_make_a_never_retried_code_retryable_is_refused_with_the_reason(
    code: str,
) -> None:
    with pytest.raises(ConfigError, match=rf"codes\.{code}: cannot be redefined: .*never retried"):
        load_policies({"version": 1, "codes": {code: {"category": "transient"}}})


def test_keys_that_are_no_text_are_problems_at_every_depth() -> None:
    policy = {"backoff": {"base_ms": 1, "rules": None, 1: None}}
    with pytest.raises(ConfigError, match=r"policies\.a\.backoff: has no 1, rules"):
        load_policies({"version": 1, "policies": {"a": policy}})

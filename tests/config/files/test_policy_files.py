"""Policy files: what they may hold, and the book that comes of it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iii_resilience import (
    Backoff,
    Breaker,
    Budget,
    Bulkhead,
    Category,
    ConfigError,
    Enqueue,
    PolicyBook,
    RetryPolicy,
    classify,
    load_policies,
    use_policies,
)
from iii_resilience.config.queue_definition import Queue
from iii_resilience.config.rules import Rule
from iii_resilience.core.codes.lookup import Code, Execution
from iii_resilience.core.policy import Reroute


def load(folder: Path, text: str | bytes) -> PolicyBook:
    path = folder / "p.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_policies(path)


FULL = """\
version: 1
policies:
  careful:
    attempts: 2
    deadline_ms: 1500
    attempt_timeout_ms: 500
    backoff: {base_ms: 10, factor: 1.5, cap_ms: 100, throttled_base_ms: 50, jitter: equal}
    budget: {ratio: 0.2, burst: 5, min_per_second: 1}
    breaker:
      {failure_rate: 0.4, window_ms: 2000, min_calls: 3, open_ms: 700, probes: 1, slow_call_ms: 90}
    bulkhead: {limit: 4, queue: 2, wait_ms: 250}
    ready_timeout_ms: 0
    retry_unexecuted: true
    max_stops: 1
    max_payload_bytes: 1000
    fallback: {enqueue: later}
  endless: {extends: careful, deadline_ms: null, budget: null, breaker: null, bulkhead: null,
    max_payload_bytes: null, fallback: {reroute: orders::other, namespace: eu}}
rules:
  - {function: orders::pay, policy: careful, idempotent: true}
  - {function: "orders::*", idempotent: false}
default: endless
queues:
  later: {max_retries: 5, backoff_ms: 1500, timeout_ms: 60000, concurrency: 4}
  in-order:
    {type: fifo, message_group_field: customer, poll_interval_ms: 20,
     redeliver_on_engine_restart: false}
codes:
  OUT_OF_PAPER: {category: transient, remedy: refill, throttled: true}
  WRONG_ADDRESS: payload
"""
CAREFUL = RetryPolicy(
    attempts=2,
    deadline=1.5,
    attempt_timeout=0.5,
    backoff=Backoff(0.01, 1.5, 0.1, 0.05, "equal"),
    budget=Budget(0.2, burst=5, min_per_second=1),
    breaker=Breaker(0.4, 2.0, 3, 0.7, 1, 0.09),
    bulkhead=Bulkhead(4, 2, 0.25),
    ready_timeout=0,
    retry_unexecuted=True,
    max_stops=1,
    max_payload_bytes=1000,
    fallback=Enqueue("later"),
)
CODES = (
    Code(
        "OUT_OF_PAPER",
        Category.TRANSIENT,
        Execution.MAYBE_EXECUTED,
        "handler",
        "refill",
        "",
        "registered",
        throttled=True,
    ),
    Code(
        "WRONG_ADDRESS", Category.PAYLOAD, Execution.MAYBE_EXECUTED, "handler", "", "", "registered"
    ),
)


def test_every_field_can_be_set_in_file(tmp_path: Path) -> None:
    book = load(tmp_path, FULL)
    assert book == PolicyBook(
        {
            "careful": CAREFUL,
            "endless": CAREFUL.replace(
                deadline=None,
                budget=None,
                breaker=None,
                bulkhead=None,
                max_payload_bytes=None,
                fallback=Reroute("orders::other", "eu"),
            ),
        },
        (Rule("orders::pay", "careful", True), Rule("orders::*", None, False)),
        "endless",
        codes=CODES,
        queues={
            "later": Queue("later", max_retries=5, backoff=1.5, timeout=60.0, concurrency=4),
            "in-order": Queue(
                "in-order",
                type="fifo",
                message_group_field="customer",
                poll_interval=0.02,
                redeliver_on_engine_restart=False,
            ),
        },
    )
    assert book.warnings == ()


def test_mapping_is_loaded_like_file() -> None:
    book = load_policies({"version": 1, "policies": {"a": {"deadline_ms": 250}}, "default": "a"})
    assert book.for_function("x").policy == RetryPolicy(deadline=0.25)


@pytest.mark.parametrize(
    "rest", ["", "policies:\n", "rules:\n", "policies: {}\nrules: []\n", "queues:\ncodes:\n"]
)
def test_what_is_left_out_is_default(tmp_path: Path, rest: str) -> None:
    assert load(tmp_path, "version: 1\n" + rest) == PolicyBook()


def test_text_with_byte_order_mark_or_in_utf_16_is_read(tmp_path: Path) -> None:
    for text in ("version: 1\n".encode("utf-8-sig"), "version: 1\n".encode("utf-16")):
        assert load(tmp_path, text) == PolicyBook()


@pytest.mark.parametrize(
    ("written", "attempts"), [("5", 5), ("+5", 5), ("010", 10), ("0x10", 16), ("0o10", 8)]
)
def test_numbers_mean_what_yaml_1_2_says(tmp_path: Path, written: str, attempts: int) -> None:
    book = load(tmp_path, f"version: 1\npolicies: {{default: {{attempts: {written}}}}}\n")
    assert book.policy_set.policy("default").attempts == attempts


def test_words_that_older_yaml_takes_for_flags_are_names(tmp_path: Path) -> None:
    book = load(tmp_path, "version: 1\npolicies: {on: {}, no: {}, 1:30: {}}\ndefault: no\n")
    assert set(book.policy_set.policies) == {"on", "no", "1:30", "default"}


def test_policies_extend_one_another_key_by_key(tmp_path: Path) -> None:
    text = (
        "version: 1\npolicies:\n"
        "  c: {extends: b, attempts: 9, backoff: {cap_ms: 3000}}\n"
        "  b: {extends: a, deadline_ms: 1000, fallback: {reroute: f}}\n"
        "  a: {attempts: 2, max_stops: 7, backoff: {base_ms: 1}, fallback: {enqueue: q}}\n"
    )
    book = load(tmp_path, text)
    a = RetryPolicy(attempts=2, max_stops=7, backoff=Backoff(base=0.001), fallback=Enqueue("q"))
    b = a.replace(deadline=1.0, fallback=Reroute("f"))
    assert book.policy_set.policy("a") == a
    assert book.policy_set.policy("b") == b
    assert book.policy_set.policy("c") == b.replace(
        attempts=9, backoff=Backoff(base=0.001, cap=3.0)
    )


def test_what_a_part_needs_may_come_from_policy_it_extends(tmp_path: Path) -> None:
    text = (
        "version: 1\npolicies:\n  a: {bulkhead: {limit: 4}}\n"
        "  b: {extends: a, bulkhead: {queue: 8, wait_ms: 100}}\n"
    )
    assert load(tmp_path, text).policy_set.policy("b").bulkhead == Bulkhead(4, 8, 0.1)


def test_part_after_null_has_its_own_defaults(tmp_path: Path) -> None:
    text = "version: 1\npolicies:\n  a: {budget: null}\n  b: {extends: a, budget: {ratio: 0.5}}\n"
    assert load(tmp_path, text).policy_set.policy("b").budget == Budget(ratio=0.5)


def test_built_in_default_can_be_extended(
    tmp_path: Path,
) -> None:
    book = load(tmp_path, "version: 1\npolicies:\n  a: {extends: default, attempts: 2}\n")
    assert book.policy_set.policy("a") == RetryPolicy(attempts=2)
    text = "version: 1\npolicies:\n  default: {max_stops: 8}\n  a: {extends: default}\n"
    assert load(tmp_path, text).policy_set.policy("a") == RetryPolicy(max_stops=8)


def test_policy_valid_only_with_its_base_is_valid(tmp_path: Path) -> None:
    text = (
        "version: 1\npolicies:\n  slow: {deadline_ms: 600000}\n"
        "  a: {extends: slow, attempt_timeout_ms: 90000}\n"
    )
    assert load(tmp_path, text).policy_set.policy("a").attempt_timeout == 90.0


def test_each_policy_of_file_has_guards_of_its_own(tmp_path: Path) -> None:
    book = load(tmp_path, "version: 1\npolicies:\n  a: {breaker: {}}\n  b: {extends: a}\n")
    a, b = book.policy_set.policy("a"), book.policy_set.policy("b")
    assert a == b
    assert a.budget is not None
    assert b.budget is not None
    assert a.budget.bucket_for() is not b.budget.bucket_for()
    assert a.breaker is not None
    assert b.breaker is not None
    assert a.breaker.circuit_for("f") is not b.breaker.circuit_for("f")


@pytest.mark.parametrize("length", [2, 3, 30])
def test_circular_extends_is_rejected(tmp_path: Path, length: int) -> None:
    lines = [f"  p{n}: {{extends: p{(n + 1) % length}}}" for n in range(length)]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "version: 1\npolicies:\n" + "\n".join(lines))
    assert len(caught.value.problems) == length
    assert "policies.p0.extends: extends itself: p0 -> p1" in caught.value.problems[0]


def test_overlong_chain_of_extends_is_rejected(tmp_path: Path) -> None:
    lines = [f"  p{n}: {{extends: p{n + 1}}}" for n in range(3_000)]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "version: 1\npolicies:\n" + "\n".join([*lines, "  p3000: {}"]))
    assert caught.value.problems[0].endswith(
        ":3:8: policies.p0.extends: extends more than 32 policies, one after another"
    )


def test_file_too_long_to_be_one_is_refused_unread(tmp_path: Path) -> None:
    comment = b"version: 1\n#" + b"x" * 1_000_000
    with pytest.raises(ConfigError, match=r"p\.yaml: is too long \(at most 1000000 bytes\)$"):
        load(tmp_path, comment)
    assert load(tmp_path, comment[:1_000_000]) == PolicyBook()
    with pytest.raises(ConfigError, match=r"^/dev/zero: is too long"):
        load_policies("/dev/zero")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/p.yaml", "^/nowhere/p.yaml: cannot be read: No such file or directory$"),
        ("/", "^/: cannot be read: Is a directory$"),
        (b"/nowhere", "^/nowhere: cannot be read: No such file or directory$"),
        # Python 3.13 words it otherwise.
        ("a\0b", "cannot be read: .*embedded null (?:byte|character in path)$"),
    ],
)
def test_path_that_cannot_be_read_is_config_error(path: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policies(path)


@pytest.mark.parametrize("source", [5, None, [5], ["a", None]])
def test_what_is_no_path_is_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match="policies are loaded from a path, several paths, or a"):
        load_policies(source)


def test_no_file_at_all_is_mistake_not_empty_book() -> None:
    with pytest.raises(ConfigError, match="no policy file was named"):
        load_policies([])


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "^<mapping>: version: must be 1, the only version there is$"),
        ({"version": 1, 2: 3}, "^<mapping>: keys must be text, got 2$"),
        ({"version": 1, "policies": {1: {}}}, "^<mapping>: policies: keys must be text, got 1$"),
        ({"version": 1, "policies": {"a": {1: 2}}}, "^<mapping>: policies.a: keys must be text"),
        (
            {"version": 1, "policies": {"a": {"deadline_ms": 0}}},
            "^<mapping>: policies.a.deadline_ms: must be a whole number of milliseconds above 0",
        ),
        ({"version": 1, "rules": [{"function": "f", 3: 4}]}, "rules.0: keys must be text, got 3"),
        ({"version": 1, "policies": {"a": {"attempts": 10**400}}}, "attempts: must be a whole"),
        ({"version": 1, "policies": {"a": {"deadline_ms": 10**400}}}, "must be a whole number"),
        ({"version": 1, "policies": {"a": {"attempts": object()}}}, "attempts: must be a whole"),
    ],
)
def test_wrong_mapping_is_refused_with_its_path(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policies(mapping)


def test_mapping_without_end_is_refused() -> None:
    circle: dict[str, Any] = {"version": 1}
    circle["policies"] = circle
    with pytest.raises(ConfigError, match="is nested too deep"):
        load_policies(circle)
    many: list[Any] = [1]
    for _ in range(12):
        many = [many] * 12
    with pytest.raises(ConfigError, match="has too many parts"):
        load_policies({"version": 1, "rules": many})


@pytest.mark.parametrize("value", [0, False, [], "x"])
def test_codes_of_wrong_type_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="codes: must be a mapping"):
        load_policies({"version": 1, "codes": value})


def test_codes_of_file_are_known_once_book_is_used() -> None:
    book = load_policies(
        {"version": 1, "codes": {"OUT_OF_INK": {"category": "transient", "remedy": "refill"}}}
    )
    assert not classify("OUT_OF_INK").known
    use_policies(book)
    failure = classify("OUT_OF_INK")
    assert (failure.category, failure.remedy) == (Category.TRANSIENT, "refill")


def test_problems_of_ten_thousand_policies_are_found_in_time(
    tmp_path: Path,
) -> None:
    policies = "".join(f"  p{n}: {{attempts: 2}}\n" for n in range(10_000))
    rules = "".join(f"  - {{function: f{n}, policy: q{n}}}\n" for n in range(10_000))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"version: 1\npolicies:\n{policies}rules:\n{rules}")
    assert len(caught.value.problems) == 10_000


def test_similar_names_are_suggested_in_time(tmp_path: Path) -> None:
    names = [f"{'ab' * 28}{n:03}" for n in range(90)]
    policies = "".join(f"  {name}: {{}}\n" for name in names)
    rules = "".join(f"  - {{function: f{n}, policy: {names[n % 90]}x{n}}}\n" for n in range(1_000))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"version: 1\npolicies:\n{policies}rules:\n{rules}")
    assert len(caught.value.problems) == 1_000
    assert "; did you mean 'abab" in caught.value.problems[0]


def test_files_are_read_by_python_that_drops_docstrings_too() -> None:
    code = (
        "import iii_resilience as r\n"
        "book = r.load_policies({'version': 1, 'policies': {'a': {'deadline_ms': 5}}})\n"
        "print(book.policy_set.policies)\n"
    )
    ran = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, check=False)
    assert ran.stderr == b""
    assert b"deadline=0.005" in ran.stdout


class TestWarnings:
    def test_fallback_to_queue_without_entry(self, tmp_path: Path) -> None:
        text = (
            "version: 1\npolicies:\n  a: {fallback: {enqueue: later}}\n  b: {extends: a}\n"
            "queues: {latr: {}}\n"
        )
        (warning,) = load(tmp_path, text).warnings
        assert warning == (
            f"{tmp_path / 'p.yaml'}:3:18: policies.a.fallback.enqueue: names the queue 'later', "
            "which has no entry under queues: nothing defines it (there are: latr; did you mean "
            "'latr'?)"
        )

    def test_rule_that_is_never_reached(self, tmp_path: Path) -> None:
        text = (
            "version: 1\nrules:\n  - {function: 'a*', idempotent: true}\n"
            "  - {function: a, idempotent: true}\n  - {function: 'a*', policy: default}\n"
        )
        (warning,) = load(tmp_path, text).warnings
        assert warning.endswith(
            ":5:6: rules.2.function: is never reached: the rule in line 3 covers 'a*' too"
        )

    def test_everything_there_is_declared_idempotent(self, tmp_path: Path) -> None:
        text = "version: 1\nrules:\n  - {function: '*', idempotent: true}\n"
        (warning,) = load(tmp_path, text).warnings
        assert ":3:21: rules.0.idempotent: says of every function there is that" in warning
        narrow = text.replace("'*'", "'a::*'")
        assert load(tmp_path, narrow).warnings == ()
        assert load(tmp_path, text.replace("true", "false")).warnings == ()

    def test_they_are_logged_one_record_each(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        text = (
            "version: 1\npolicies: {a: {fallback: {enqueue: q}}}\n"
            "rules: [{function: '*', idempotent: true}]\n"
        )
        with caplog.at_level(logging.WARNING, logger="iii_resilience"):
            book = load(tmp_path, text)
        ours = [record for record in caplog.records if record.name == "iii_resilience"]
        assert tuple(record.getMessage() for record in ours) == book.warnings
        assert len(book.warnings) == 2

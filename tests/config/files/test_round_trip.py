"""What is written to a file is what is read from it; and no file whatever does harm."""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tenacity
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.paths import ROOT
from support.policies_to_write import books, policies

from iii_resilience import ConfigError, PolicyBook, RetryPolicy, load_policies
from iii_resilience.config.load import dump_policies


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies") / "p.yaml"


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(policies())
def test_policy_that_is_written_and_read_is_the_same(scratch: Path, policy: RetryPolicy) -> None:
    scratch.write_text(dump_policies(PolicyBook({"a": policy})), encoding="utf-8")
    assert load_policies(scratch).policy_set.policy("a") == policy


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(books())
def test_book_that_is_written_and_read_is_the_same(scratch: Path, book: PolicyBook) -> None:
    text = dump_policies(book)
    scratch.write_text(text, encoding="utf-8")
    again = load_policies(scratch)
    assert again == book
    assert dump_policies(again) == text
    # Other readers of YAML, of the older version of the language too, see the same.
    assert load_policies(yaml.safe_load(text)) == book


def test_built_in_default_is_written_in_full() -> None:
    assert yaml.safe_load(dump_policies(PolicyBook())) == {
        "version": 1,
        "policies": {
            "default": {
                "attempts": 4,
                "backoff": {
                    "base_ms": 200,
                    "factor": 2.0,
                    "cap_ms": 20000,
                    "throttled_base_ms": None,
                    "jitter": "full",
                },
                "deadline_ms": 60000,
                "attempt_timeout_ms": None,
                "budget": {"ratio": 0.1, "burst": 10.0, "min_per_second": 0.005},
                "breaker": None,
                "bulkhead": None,
                "fallback": None,
                "retry_unexecuted": False,
                "ready_timeout_ms": 5000,
                "max_stops": 3,
                "max_payload_bytes": None,
            }
        },
        "default": "default",
    }


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (RetryPolicy(wait=tenacity.wait_fixed(1)), r"^policies\.a\.wait: an object of tenacity"),
        (RetryPolicy(stop=tenacity.stop_never), r"^policies\.a\.stop: an object of tenacity"),
        (
            RetryPolicy(ready_timeout=0.0005),
            r"^policies\.a\.ready_timeout_ms: 0\.5 is not a whole number of milliseconds",
        ),
    ],
)
def test_what_no_file_can_hold_is_not_written(policy: RetryPolicy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dump_policies(PolicyBook({"a": policy}))


# Fuzzing.

KEYS: list[Any] = [
    *("version", "policies", "rules", "default", "queues", "codes", "function", "policy", "a"),
    *("idempotent", "extends", "backoff", "budget", "breaker", "bulkhead", "attempts", "limit"),
    *("deadline_ms", "fallback", "enqueue", "reroute", "category", "timeout_ms", "FORBIDDEN", 1),
]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("a"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=15,
)
SECTIONS = ("policies", "rules", "default", "queues", "codes")


def loads_or_config_error(source: Any) -> None:
    try:
        book = load_policies(source)
    except ConfigError as error:
        told = bool(error.problems) and all("\n" not in problem for problem in error.problems)
    else:
        told = isinstance(book, PolicyBook)
        book.explain("x::y")
    assert told


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({"version": st.just(1)}, optional=dict.fromkeys(SECTIONS, ANY)))
def test_no_mapping_raises_anything_but_config_error(mapping: dict[str, Any]) -> None:
    loads_or_config_error(mapping)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({"version": st.just(1)}, optional=dict.fromkeys(SECTIONS, ANY)))
def test_well_formed_file_raises_only_config_error(scratch: Path, mapping: dict[str, Any]) -> None:
    scratch.write_text(json.dumps(mapping), encoding="utf-8")
    loads_or_config_error(scratch)


PIECES = [
    *("version: 1\n", "policies:\n", "  a:\n", "    attempts: ", "rules:\n", "- ", "{", "}", "["),
    *("]", ": ", "\n", " ", "&x ", "*x ", "!!int ", "!!bool ", "? ", "| ", "> ", "'", '"', "<<"),
    *("0x_", "1e999", "2001-02-30", "~", "#", "%YAML 1.2\n", "---\n", "\t", "\x85", "€", "0o9"),
    *("queues:\n", "codes:\n", "  FORBIDDEN: ", "transient", "\ufeff", "...\n", ".nan", "-.inf"),
]
YAMLISH = st.lists(st.sampled_from(PIECES), max_size=15).map("".join)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=80)
    | (st.text(max_size=80) | YAMLISH).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
@example(b"\xff\xfe\x00")
@example(b"a: !!bool foo")
@example(b'"\\ud800": 1')
@example(b"? ? ? ? ? a")
def test_no_file_raises_anything_but_config_error(scratch: Path, data: bytes) -> None:
    scratch.write_bytes(data)
    loads_or_config_error(scratch)


HOSTILE = r"""
import itertools, resource, sys, time
from iii_resilience import ConfigError, load_policies

# Half a gigabyte of address space, most of which the interpreter and its libraries have for
# themselves; what is beyond it is a MemoryError.
resource.setrlimit(resource.RLIMIT_AS, (500_000_000, 500_000_000))

units = ["{", "[", "- ", "? ", "a: {", "&a ", "*a ", "'", '"', "#\n", "\n", "9", "x", "a: 1\n",
    "- {function: a, policy: b}\n", "  ", "%", "!", "|\n ", "---\n", "\u00e9", ", ", "1,", "e",
    ".", "? a\n", "a,\n", '"\\x41', "[],", "{}, ", ": ", "\t"]
size = int(sys.argv[2])
openings = itertools.cycle(["version: 1\nrules: [", "version: 1\nrules:\n", ""])
for unit, opening in zip(units, openings):
    data = (opening + unit * size).encode()[:size]
    with open(sys.argv[1], "wb") as file:
        file.write(data)
    started = time.process_time()
    try:
        load_policies(sys.argv[1])
    except ConfigError:
        pass
    seconds = time.process_time() - started
    assert seconds < 30, (unit, opening, seconds)
print("all refused or read")
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_longest_files_cost_bounded_time_and_memory(tmp_path: Path, size: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(tmp_path / "p.yaml"), str(size)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout == "all refused or read\n"


@pytest.mark.parametrize("seed", range(20))
def test_good_file_with_one_byte_changed_fails_cleanly(scratch: Path, seed: int) -> None:
    pick = random.Random(seed)
    good = bytearray((ROOT / "policies" / "default.yaml").read_bytes())
    for _ in range(20):
        text = good[:]
        text[pick.randrange(len(text))] = ord(pick.choice(string.printable))
        scratch.write_bytes(text)
        loads_or_config_error(scratch)

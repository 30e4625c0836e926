"""The public surface: what is exported is what is documented, and it is made as promised."""

from __future__ import annotations

import subprocess
import sys

import attrs
import pytest

import iii_resilience
from iii_resilience import RetryPolicy

EXPORTED = [
    "Attempt",
    "AuthError",
    "Backoff",
    "Breaker",
    "Budget",
    "Bulkhead",
    "BulkheadFullError",
    "Category",
    "CircuitOpenError",
    "ConfigError",
    "ConnectionLostError",
    "Decision",
    "Discovery",
    "Enqueue",
    "Enqueued",
    "Execution",
    "Failure",
    "Hint",
    "InvalidPayloadError",
    "Limit",
    "NotConnectedError",
    "NotFoundError",
    "PayloadError",
    "PayloadTooLargeError",
    "PermanentError",
    "PolicyBook",
    "Queue",
    "Reason",
    "Reroute",
    "RetryPolicy",
    "RetryReport",
    "RpcError",
    "TransientError",
    "check_rpc",
    "classify",
    "discover",
    "ensure_queue",
    "hint_for",
    "iii_retry",
    "load_policies",
    "policies_from_engine",
    "register_codes",
    "register_exceptions",
    "report_for",
    "resilient",
    "retrying",
    "use_policies",
]

DATA = [
    "Attempt",
    "Backoff",
    "Breaker",
    "Budget",
    "Bulkhead",
    "Decision",
    "Discovery",
    "Enqueue",
    "Enqueued",
    "Failure",
    "Hint",
    "Limit",
    "PolicyBook",
    "Reroute",
    "Queue",
    "RetryPolicy",
    "RetryReport",
]


def test_exactly_these_names_are_exported() -> None:
    assert sorted(vars(iii_resilience)["__all__"]) == EXPORTED


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_exists_and_says_what_it_is(name: str) -> None:
    assert getattr(iii_resilience, name).__doc__


@pytest.mark.parametrize("name", DATA)
def test_data_classes_are_frozen_attrs_classes(name: str) -> None:
    kind = getattr(iii_resilience, name)
    assert attrs.has(kind)
    assert kind.__setattr__ is not object.__setattr__, "not frozen"


def test_replace_is_evolve() -> None:
    policy = RetryPolicy()
    assert policy.replace(attempts=5) == attrs.evolve(policy, attempts=5)
    assert policy.replace(attempts=5).budget is policy.budget


def test_importing_library_loads_no_extra_and_no_yaml() -> None:
    heavy = (
        "('yaml', 'cattrs', 'iii', 'typer', 'rich', 'websockets', 'jsonschema', 'redis', 'psycopg')"
    )
    code = f"import sys, iii_resilience; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"

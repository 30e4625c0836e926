"""The key of a message, and the fingerprint of its payload."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from iii_resilience.handling import PayloadError
from iii_resilience.handling.decorators.idempotency_key import (
    INJECTED,
    as_json,
    bare,
    check_key,
    fingerprint,
    key_of,
    missing,
)
from iii_resilience.sdk.propagation import PAYLOAD_FIELD, CallContext
from iii_resilience.stores.protocol import digest

ADDED = {INJECTED: "w-1", PAYLOAD_FIELD: {"attempt": 2}}


def test_payload_is_what_its_sender_knows() -> None:
    payload = {"id": 1, "list": [1], **ADDED}
    assert bare(payload) == {"id": 1, "list": [1]}
    assert payload == {"id": 1, "list": [1], **ADDED}
    for other in (None, 5, "text", [ADDED]):
        assert bare(other) is other


def test_fingerprint_is_that_of_the_bare_payload() -> None:
    assert fingerprint({"b": 1, "a": [1, 2], **ADDED}) == digest('{"a":[1,2],"b":1}')
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint([ADDED]) != fingerprint([])


class Channel:
    pass


def test_what_json_cannot_carry_is_its_type() -> None:
    name = f"{Channel.__module__}.Channel"
    assert as_json({"b": Channel(), "a": None}) == f'{{"a":null,"b":{{"type":"{name}"}}}}'
    assert as_json([1, "ü"]) == '[1,"\\u00fc"]'


@pytest.mark.parametrize("key", [None, "id", lambda payload: 1])
def test_keys_of_each_kind_are_taken(key: Any) -> None:
    check_key(key, "@idempotent")


@pytest.mark.parametrize(("key", "kind"), [("", "str"), (5, "int"), (b"id", "bytes")])
def test_what_is_no_key_is_refused_by_name(key: Any, kind: str) -> None:
    words = (
        "@idempotent: key must be the name of a payload field, a function of the payload, or "
        f"None, got {kind}"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(words)}$"):
        check_key(key, "@idempotent")


def carried(key: str | None) -> CallContext:
    return CallContext(attempt=1, idempotency_key=key)


@pytest.mark.parametrize(
    ("key", "payload", "context", "found"),
    [
        ("id", {"id": 5}, None, "5"),
        ("id", {"id": "5"}, carried("k"), '"5"'),
        ("id", {"id": 0}, None, "0"),
        ("id", {"id": None}, None, None),
        ("id", {"id": ""}, None, None),
        ("id", {}, None, None),
        ("id", ["id"], None, None),
        (INJECTED, ADDED, None, None),
        (None, {"id": 5}, carried("k"), '"k"'),
        (None, {"id": 5}, carried(None), None),
        (None, {"id": 5}, None, None),
        (len, {"id": 5, **ADDED}, None, "1"),
        (lambda payload: payload["no"], {}, None, None),
        (lambda payload: payload.no, {}, None, None),
        (lambda payload: payload[0], None, None, None),
    ],
)
def test_key_is_found_where_it_stands(
    key: Any, payload: Any, context: CallContext | None, found: str | None
) -> None:
    assert key_of(key, payload, context) == found


@pytest.mark.parametrize(("value", "kind"), [(True, "bool"), (1.5, "float"), ([1], "list")])
def test_value_that_is_no_key_is_a_payload_error(value: Any, kind: str) -> None:
    with pytest.raises(PayloadError) as caught:
        key_of("id", {"id": value}, None)
    assert caught.value.code == "IDEMPOTENCY_KEY_INVALID"
    assert caught.value.message == f"an idempotency key is a text or a whole number, not {kind}"


def test_other_errors_of_a_users_function_pass() -> None:
    def key(_: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        key_of(key, {}, None)


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("id", "in the field 'id'"),
        (len, "where it is looked for"),
        (None, "with the call (worker.trigger(..., idempotency_key=...))"),
    ],
)
def test_missing_key_says_where_it_belongs(key: Any, where: str) -> None:
    error = missing(key)
    assert error.code == "IDEMPOTENCY_KEY_MISSING"
    assert json.loads(str(error))["message"] == f"there is no idempotency key {where}"

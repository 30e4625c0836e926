"""What the engine's own functions answer: the loopback engine and a real one are asked the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from iii import InitOptions, register_worker
from support.real_sdk import needs
from support.waiting import until

from iii_resilience import classify

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120), needs((0, 23), "namespaces")]


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex[:8]


@pytest.fixture
def client(engine_url: str, tag: str) -> Iterator[Any]:
    options = InitOptions(worker_name=f"builtins-{tag}", otel={"enabled": False})
    made = register_worker(engine_url, options)
    yield made
    made.shutdown()


def call(client: Any, function_id: str, payload: Any) -> Any:
    return client.trigger({"function_id": function_id, "payload": payload, "timeout_ms": 30_000})


def update(client: Any, scope: str, *ops: dict[str, Any]) -> Any:
    return call(client, "state::update", {"scope": scope, "key": "k", "ops": list(ops)})


class TestState:
    def test_list_has_values_of_scope(self, client: Any, tag: str) -> None:
        for key, value in (("a", 1), ("b", {"x": 2})):
            call(client, "state::set", {"scope": tag, "key": key, "value": value})
        assert sorted(map(str, call(client, "state::list", {"scope": tag}))) == ["1", "{'x': 2}"]
        assert call(client, "state::list", {"scope": f"{tag}-none"}) == []

    @pytest.mark.parametrize(
        ("ops", "expected"),
        [
            ([{"type": "set", "path": "x", "value": 2}], {"x": 2}),
            ([{"type": "set", "path": "p.q", "value": 2}], {"p.q": 2}),
            ([{"type": "increment", "path": "n", "by": 3}], {"n": 3}),
            ([{"type": "decrement", "path": "n", "by": 3}], {"n": -3}),
            ([{"type": "append", "path": "l", "value": 2}], {"l": [2]}),
            ([{"type": "append", "path": "s", "value": "a"}] * 2, {"s": "aa"}),
            ([{"type": "merge", "path": "m", "value": {"y": 1}}], {"m": {"y": 1}}),
            ([{"type": "merge", "value": {"y": 1}}], {"y": 1}),
            (
                [{"type": "set", "path": "x", "value": 2}, {"type": "remove", "path": "x"}],
                {},
            ),
            ([{"type": "set", "path": "", "value": 7}], 7),
        ],
    )
    def test_update(self, client: Any, tag: str, ops: list[Any], expected: Any) -> None:
        assert update(client, tag, *ops) == {"old_value": None, "new_value": expected}

    @pytest.mark.parametrize(
        ("start", "op", "code"),
        [
            (1, {"type": "increment", "path": "n", "by": 1}, "increment.target_not_object"),
            ({"n": "a"}, {"type": "increment", "path": "n", "by": 1}, "increment.not_number"),
            ({"n": 1}, {"type": "append", "path": "n", "value": 1}, "append.type_mismatch"),
            ({}, {"type": "merge", "value": 5}, "merge.value.not_an_object"),
        ],
    )
    def test_operation_that_fails(
        self, client: Any, tag: str, start: Any, op: dict[str, Any], code: str
    ) -> None:
        call(client, "state::set", {"scope": tag, "key": "k", "value": start})
        answer = update(client, tag, op)
        assert answer["new_value"] == answer["old_value"] == start
        assert [error["code"] for error in answer["errors"]] == [code]
        assert {"doc_url", "message", "op_index"} < answer["errors"][0].keys()

    def test_unknown_operation_is_refused(self, client: Any, tag: str) -> None:
        with pytest.raises(Exception, match="unknown variant `bogus`") as caught:
            update(client, tag, {"type": "bogus", "path": "x"})
        assert classify(caught.value).code == "deserialization_error"


class TestIntrospection:
    def test_trigger_types_are_listed(self, client: Any) -> None:
        rows = call(client, "engine::triggers::list", {})["triggers"]
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        assert {"configuration", "cron"} <= {row["id"] for row in rows}
        (cron,) = [row for row in rows if row["id"] == "cron"]
        assert cron == {
            "id": "cron",
            "description": "Cron-based scheduled triggers",
            "namespace": "default",
            "worker_name": "iii-cron",
        }

    def test_worker_is_described(self, client: Any, tag: str) -> None:
        client.register_function(f"builtins-{tag}::f", lambda data: 1)
        name = f"builtins-{tag}"

        def known() -> bool:
            rows = call(client, "engine::workers::list", {})["workers"]
            return name in {row["name"] for row in rows}

        until(known)

        def described() -> Any:
            return call(client, "engine::workers::info", {"name": name})

        until(lambda: described()["functions"])
        info = described()
        assert set(info) == {"worker", "functions", "registered_triggers", "trigger_types"}
        assert [f["function_id"] for f in info["functions"]] == [f"builtins-{tag}::f"]
        worker = info["worker"]
        assert (worker["name"], worker["status"], worker["function_count"]) == (
            name,
            "connected",
            1,
        )
        with pytest.raises(Exception, match="Worker 'nobody-here' is not connected") as caught:
            call(client, "engine::workers::info", {"name": "nobody-here"})
        assert classify(caught.value).code == "NOT_FOUND"

    def test_channel_has_two_ends_of_one_key(self, client: Any) -> None:
        made = call(client, "engine::channels::create", {"buffer_size": 4})
        reader, writer = made["reader"], made["writer"]
        assert (reader.pop("direction"), writer.pop("direction")) == ("read", "write")
        assert reader == writer
        assert set(reader) == {"channel_id", "access_key"}

    def test_search_puts_ids_before_substrings(self, client: Any, tag: str) -> None:
        ids = [f"{tag}::a", f"aa{tag}::b", f"x::{tag}"]
        for function_id in ids:
            client.register_function(function_id, lambda data: 1)

        def found() -> list[str]:
            rows = call(client, "engine::functions::list", {"search": tag})["functions"]
            return [row["function_id"] for row in rows]

        until(lambda: len(found()) == 3)
        assert found() == [f"{tag}::a", f"x::{tag}", f"aa{tag}::b"]

"""The engine's answer to the question which functions are registered."""

from __future__ import annotations

from typing import Any

import pytest

from iii_resilience.sdk.engine_api import FunctionStatus, read_functions_info

MISSING = FunctionStatus(there=False)


@pytest.mark.parametrize(
    ("item", "status"),
    [
        ({"worker_name": "w", "namespace": "default"}, FunctionStatus(there=True, owner="w")),
        ({"worker_name": "w"}, FunctionStatus(there=True, owner="w")),
        ({}, FunctionStatus(there=True)),
        ({"worker_name": 5}, FunctionStatus(there=True)),
        ({"worker_name": "w", "namespace": "elsewhere"}, MISSING),
        ({"error": "forbidden"}, FunctionStatus(there=True, forbidden=True)),
        ({"error": "not_found"}, MISSING),
        ({"error": "something new"}, MISSING),
        (
            {"worker_name": "w", "registered_triggers": []},
            FunctionStatus(there=True, owner="w", triggers=()),
        ),
        (
            {"worker_name": "w", "registered_triggers": [{"id": "1", "trigger_type": "cron"}]},
            FunctionStatus(there=True, owner="w", triggers=(("1", "cron"),)),
        ),
    ],
)
def test_item_is_read(item: dict[str, Any], status: FunctionStatus) -> None:
    answer = {"functions": [{"function_id": "t::f", **item}]}
    assert read_functions_info(answer, None) == {"t::f": status}


def test_item_of_namespace_is_read() -> None:
    answer = {"functions": [{"function_id": "t::f", "namespace": "mine"}]}
    assert read_functions_info(answer, "mine")["t::f"].there
    assert not read_functions_info(answer, None)["t::f"].there


@pytest.mark.parametrize(
    "answer",
    [None, 5, [], {}, {"functions": None}, {"functions": [5]}, {"functions": [{"error": None}]}],
)
def test_unknown_answer_is_error(answer: Any) -> None:
    with pytest.raises(LookupError, match="in a form that is not known"):
        read_functions_info(answer, None)

"""A row that no engine can be sent is parked, whatever it holds: the rows behind it go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iii_resilience.core.codes.model import Category
from iii_resilience.core.errors import InvalidPayloadError
from iii_resilience.handling.decorators.parked_message import FailureSummary, ParkedMessage
from iii_resilience.handling.relay.hand_over import of_row
from iii_resilience.sdk.payload_check import check_payload
from iii_resilience.stores import SqliteStore
from iii_resilience.stores.relaying import OutboxRow


def nested(depth: int) -> str:
    return '{"a": ' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    "data",
    ["no JSON", "[1]", '{"a": "\\ud800"}', '{"a": NaN}', nested(200), nested(900), nested(100_000)],
    ids=["no JSON", "list", "surrogate", "NaN", "200 deep", "900 deep", "100 000 deep"],
)
def test_row_that_cannot_be_sent_is_parked(tmp_path: Path, data: str) -> None:
    store = SqliteStore(tmp_path / "store.db")
    each = of_row(store, OutboxRow(1, "orders", "orders::save", data, "k1"))
    with pytest.raises(InvalidPayloadError):
        check_payload(each.payload())
    each.park(FailureSummary("invalid_payload", Category.PAYLOAD))
    (record,) = store.records()
    parked = ParkedMessage.from_record(record)
    assert parked is not None
    assert parked.parked_at is not None
    assert (parked.queue, parked.function_id, parked.key) == ("orders", "orders::save", '"k1"')
    assert parked.payload in {data, json.dumps(data)}, "it is there as it was"
    store.close()

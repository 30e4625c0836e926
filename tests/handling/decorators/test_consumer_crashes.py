"""The worker's process ends at each step of a delivery: nothing is lost, nothing written twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.sqlite_files import opened
from support.warm_process import WarmProcess

from iii_resilience.handling.decorators.parked_message import ParkedMessage
from iii_resilience.stores import SqliteStore
from iii_resilience.testing import LoopbackEngine

WORKER = Path(__file__).with_name("consumer_worker.py")

HANDLED = [
    "before delivered",
    "after delivered",
    "before claim",
    "after claim",
    "handler",
    "before commit",
    "after commit",
    "before settle",
    "after settle",
]
PARKED = ["handler", "before finish", "after finish", "before note", "after note"]


@contextmanager
def worker(url: str, folder: Path, how: str, step: str) -> Iterator[WarmProcess]:
    process = WarmProcess(WORKER, url, str(folder), how, step)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("how", "step"),
    [*(("fine", step) for step in HANDLED), *(("permanent", step) for step in PARKED)],
)
def test_message_survives_end_of_its_worker(
    engine: LoopbackEngine, caller: object, tmp_path: Path, how: str, step: str
) -> None:
    file = tmp_path / "store.db"
    with opened(file) as connection:
        connection.execute("CREATE TABLE effects (n INTEGER)")
    engine.define_queue("jobs", max_retries=3, backoff_ms=1)
    trigger = caller.trigger  # type: ignore[attr-defined]
    with worker(engine.url, tmp_path, how, step) as first:
        engine.wait_registered("jobs::do", timeout=60)
        trigger(
            {
                "function_id": "jobs::do",
                "payload": {"n": 1},
                "action": {"type": "enqueue", "queue": "jobs"},
            }
        )
        assert first.wait(60) == 9, "it did not end at this step"
    with worker(engine.url, tmp_path, how, step):
        engine.wait_queue_idle("jobs", timeout=60)
    assert engine.dead_letters("jobs") == ()
    with opened(file) as connection:
        effects = connection.execute("SELECT n FROM effects").fetchall()
    records = list(SqliteStore(file).records())
    ran = (tmp_path / "elsewhere").read_text(encoding="utf-8").split()
    if how == "fine":
        assert effects == [(1,)]
        assert records == []
    else:
        assert effects == []
        (parked,) = (ParkedMessage.from_record(record) for record in records)
        assert parked is not None
        assert parked.parked_at is not None
        assert parked.told.code == "CARD_DECLINED"
        assert parked.data() == {"n": 1}
    # Elsewhere than in the transaction it shows that the handler ran, once more where its end was
    # not on record yet.
    again = {"handler", "before commit", "before finish"}
    assert len(ran) == (2 if step in again else 1)

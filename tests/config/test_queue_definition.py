"""The definition of a queue: its defaults, and what makes no sense."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from iii_resilience import PolicyBook
from iii_resilience.config.queue_definition import Queue


def test_defaults_are_queue_workers_own_but_for_redelivery() -> None:
    assert attrs.asdict(Queue("q")) == {
        "name": "q",
        "max_retries": 3,
        "concurrency": 10,
        "timeout": 300.0,
        "backoff": 1.0,
        "poll_interval": 0.1,
        "type": "standard",
        "message_group_field": None,
        "redeliver_on_engine_restart": True,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "Queue.name must be the name of a queue, without blanks around it, got ''"),
        ({"max_retries": -1}, "Queue.max_retries must be a whole number at least 0 and at most"),
        ({"max_retries": 2**32}, "Queue.max_retries must be a whole number at least 0 and at most"),
        ({"concurrency": 0}, "Queue.concurrency must be a whole number at least 1"),
        ({"timeout": 0}, "Queue.timeout must be a finite number of seconds at least 0.001, got"),
        ({"backoff": -1}, "Queue.backoff must be a finite number of seconds at least 0, got -1"),
        (
            {"poll_interval": 0},
            "Queue.poll_interval must be a finite number of seconds at least 0.001",
        ),
        ({"type": "lifo"}, "Queue.type must be one of standard, fifo, got 'lifo'"),
        ({"type": "fifo"}, "Queue.message_group_field must be given for a queue of type fifo"),
        ({"message_group_field": "id"}, "Queue.message_group_field must be given for a queue of"),
        ({"redeliver_on_engine_restart": 1}, "must be true or false, got 1"),
    ],
)
def test_queue_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Queue(**{"name": "q", **fields})


def test_book_knows_its_queues_by_their_own_names() -> None:
    queue = Queue("later")
    assert PolicyBook(queues={"later": queue}).policy_set.queues["later"] is queue
    with pytest.raises(ValueError, match="the queue under 'sooner' is named 'later'"):
        PolicyBook(queues={"sooner": queue})

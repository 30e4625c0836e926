"""`ensure_queue`: a queue with sane settings, defined only where it is not defined yet.

Knows nothing of what is put into a queue. Defining a queue again delivers whatever it has in
flight a second time, beside the handlers that still run (queue-observed, section 2); so the queue
worker's configuration entry is read first.
"""

from __future__ import annotations

import logging
from typing import Any

from iii_resilience.asking import ask
from iii_resilience.classify import classify
from iii_resilience.queues import Queue

_ENTRY = "queue"
_log = logging.getLogger("iii_resilience")


def ensure_queue(
    worker: Any,
    queue: str | Queue,
    *,
    answer_within: float = 10.0,
    **settings: Any,
) -> bool:
    """Define a queue, unless it is defined already.

    A queue that is defined otherwise stays as it is, with one warning in the log: to define it
    again would deliver its messages in flight twice. Two processes that look in the same moment
    may both define it; give the task to one of them, or to the deployment.

    Args:
        worker: What ``iii.register_worker()`` or `resilient` returned.
        queue: Its name, or what it is to be like (an entry of ``book.queues``).
        answer_within: Seconds for each of the two questions to the engine.
        **settings: The fields of `Queue`, beside a name.

    Returns:
        Whether this call defined it.

    Raises:
        TypeError: A `Queue` and settings beside it, an unknown setting, or no name.
        ValueError: A setting that is out of its range.
        NotConnectedError: There was no connection to the engine in that time.
        RuntimeError: This is the SDK's own thread: ask from another one.
        Exception: The SDK's own exception: ``function_not_found`` where no standalone queue
            worker is installed, ``FORBIDDEN`` where this worker may not ask.
    """
    if isinstance(queue, Queue):
        if settings:
            raise TypeError("give either a Queue or its name and fields, not both")
        wanted, name = queue.to_wire(), queue.name
    else:
        given: object = queue
        if not (isinstance(given, str) and given):
            raise TypeError(f"a queue's name is a text that is not empty, got {queue!r}")
        wanted, name = Queue(queue, **settings).to_wire(), queue
    defined = _defined(worker, answer_within).get(name)
    if defined is None:
        ask(worker, "queue::define", {"queue": name, "config": wanted}, timeout=answer_within)
        return True
    if isinstance(defined, dict):
        other = sorted(field for field, value in wanted.items() if defined.get(field) != value)
        if other:
            _log.warning(
                "queue %r is defined already, with another %s; it stays as it is",
                name,
                ", ".join(other),
            )
    return False


def _defined(worker: Any, timeout: float) -> dict[str, Any]:
    """The definitions by name, as they stand in the queue worker's configuration entry."""
    try:
        entry = ask(worker, "configuration::get", {"id": _ENTRY}, timeout=timeout)
    except Exception as error:
        if classify(error).code == "NOT_FOUND":
            return {}  # no queue worker has ever kept anything here
        raise
    value = entry.get("value") if isinstance(entry, dict) else None
    queues = value.get("queue_configs") if isinstance(value, dict) else None
    return queues if isinstance(queues, dict) else {}

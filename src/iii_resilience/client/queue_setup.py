"""`ensure_queue`: defines a queue with safe settings, unless it is already defined.

A second definition delivers all messages in flight again, beside the handlers that still run
(docs/engine-notes.md, 9). So the queue worker's configuration entry is read first. Knows nothing of
what is enqueued.
"""

from __future__ import annotations

import time
from typing import Any

from iii_resilience.config.queue_definition import Queue
from iii_resilience.core.classify import classify
from iii_resilience.core.failure import Failure
from iii_resilience.core.observers import logger
from iii_resilience.sdk.client_adapter import ClientAdapter, SdkClient
from iii_resilience.sdk.engine_api import call_engine

_DEFINE = "queue::define"
_ENTRY = "queue"
# What it says while its configuration changes; nothing has been defined then.
_BUSY = f"retry {_DEFINE}"
_AGAIN = 0.05
# Longer than the engine waits before it looks at its configuration's files (0.5 s), and reads them.
_SETTLED = 0.75


def ensure_queue(
    worker: SdkClient,
    queue: str | Queue,
    *,
    answer_within: float = 10.0,
    settle: float = _SETTLED,
    **settings: Any,
) -> bool:
    """Define a queue, unless it is defined already.

    A queue that is defined otherwise stays as it is, with one warning in the log: to define it
    again would deliver its messages in flight twice. Two processes that look in the same moment
    may both define it, which harms nothing where both want the same; else give the task to one of
    them, or to the deployment. If the queue worker is busy, the call is repeated.

    An engine that is just reading its configuration's files discards what is defined meanwhile,
    for half a second or for good. Defining several queues in a row runs into that. So a
    definition is polled until it has been there for a while, and repeated if it has gone.

    Args:
        worker: What ``iii.register_worker()`` or `resilient` returned.
        queue: Its name, or what it is to be like (an entry of ``book.policy_set.queues``).
        answer_within: Seconds for each question to the engine, and for a queue worker that is
            busy, or whose definitions do not last.
        settle: Seconds that a new definition must have stood; 0 does not look at it again.
        **settings: The fields of `Queue`, beside a name.

    Returns:
        Whether this call defined it.

    Raises:
        TypeError: A `Queue` and settings beside it, an unknown setting, or no name.
        ValueError: A setting that is out of its range.
        NotConnectedError: There was no connection to the engine in that time.
        RuntimeError: This is the SDK's own thread: call it from another one. Or the definition was
            taken back again and again.
        Exception: The SDK's own exception: ``function_not_found`` where no standalone queue
            worker is installed, ``FORBIDDEN`` if this worker may not call it.
    """
    wanted = _wanted(queue, settings)
    until = time.monotonic() + answer_within
    made = False
    while True:
        defined = _defined(worker, wanted.name, answer_within)
        if defined is not None:
            if not made:
                _compare(wanted, defined)
            return made
        try:
            made = _define(worker, wanted, answer_within) or made
        except Exception as error:
            if not _says(classify(error), _BUSY) or time.monotonic() + _AGAIN >= until:
                raise
            # Read again: another process may be defining this queue.
            time.sleep(_AGAIN)
            continue
        if _lasts(worker, wanted.name, settle, answer_within):
            return made
        if time.monotonic() >= until:
            raise RuntimeError(
                f"queue {wanted.name!r} was defined, and its definition was taken back each time "
                f"for {answer_within:g} s: something else keeps changing the configuration entry "
                f"{_ENTRY!r}; find it, then call ensure_queue again"
            )


def _wanted(queue: object, settings: dict[str, Any]) -> Queue:
    if isinstance(queue, Queue):
        if settings:
            raise TypeError("give either a Queue or its name and fields, not both")
        return queue
    if not (isinstance(queue, str) and queue):
        raise TypeError(f"a queue's name is a text that is not empty, got {queue!r}")
    return Queue(queue, **settings)


def _lasts(worker: SdkClient, name: str, seconds: float, timeout: float) -> bool:
    """Whether a definition stands for so long; one that is taken back may come again by itself."""
    there, since = True, time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(min(_AGAIN, seconds))
        now = _defined(worker, name, timeout) is not None
        if now is not there:
            there, since = now, time.monotonic()
    return there


def _define(worker: SdkClient, queue: Queue, timeout: float) -> bool:
    payload = {"queue": queue.name, "config": queue.to_wire()}
    try:
        answer = call_engine(worker, _DEFINE, payload, timeout=timeout)
    except Exception as error:
        namespace = ClientAdapter(worker).namespace
        if namespace in {None, "default"} or classify(error).code != "function_not_found":
            raise
        # One queue worker may serve every namespace, from the default one.
        answer = call_engine(worker, _DEFINE, payload, timeout=timeout, namespace="default")
    return not (isinstance(answer, dict) and answer.get("changed") is False)


def _says(failure: Failure | None, text: str) -> bool:
    while failure is not None:
        if text in failure.message:
            return True
        failure = failure.inner
    return False


def _compare(wanted: Queue, defined: dict[str, Any]) -> None:
    """Say once where a queue is defined otherwise than it is wanted."""
    if not defined:
        logger.warning(
            "queue %r is defined already, how cannot be seen; it stays as it is", wanted.name
        )
        return
    fields = wanted.to_wire().items()
    other = sorted(field for field, value in fields if defined.get(field) != value)
    if other:
        logger.warning(
            "queue %r is defined already, with another %s; it stays as it is",
            wanted.name,
            ", ".join(other),
        )


def _defined(worker: SdkClient, name: str, timeout: float) -> dict[str, Any] | None:
    """How a queue is defined, empty where that cannot be seen; None where it is not.

    The definitions stand in the queue worker's configuration entry. It is there from the worker's
    start on, unless the worker was given another name for it (``III_CONFIG_NAME``).
    """
    try:
        entry = call_engine(worker, "configuration::get", {"id": _ENTRY}, timeout=timeout)
    except Exception as error:
        if classify(error).code != "NOT_FOUND":
            raise
        # Names alone, and those of topics among them: but to define anew is what does harm.
        topics = call_engine(worker, "engine::queue::list_topics", {}, timeout=timeout)
        there = any(
            isinstance(topic, dict) and topic.get("name") == name
            for topic in (topics if isinstance(topics, list) else ())
        )
        return {} if there else None
    value = entry.get("value") if isinstance(entry, dict) else None
    queues = value.get("queue_configs") if isinstance(value, dict) else None
    found = queues.get(name) if isinstance(queues, dict) else None
    return found if isinstance(found, dict) else None

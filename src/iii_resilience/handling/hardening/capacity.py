"""Applies the limits of one worker: admits its calls, and answers those that it is too full for.

Knows nothing of how handlers run.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import attrs

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.bulkhead import Permit
from iii_resilience.core.guards.concurrency_limit import ConcurrencyLimit, Limit
from iii_resilience.handling.hardening.error_encoding import structured
from iii_resilience.telemetry import worker_events

SAME_AS_WORKER: Any = object()
"""The limit of a function that names none: that of its worker."""

_UNAVAILABLE = 503
_LOG_EVERY = 1.0  # seconds between two records of one function


@attrs.frozen
class LimitUse:
    """How much of one limit is in use.

    Attributes:
        function_id: The function that it is for; None for all functions without one of their own.
        limit: How many handlers may run at once now.
        running: How many run.
        waiting: How many calls wait.
        refused: How many calls were refused since the worker began.
    """

    function_id: str | None
    limit: int
    running: int
    waiting: int
    refused: int


@attrs.frozen
class Admitted:
    """A handler that may run, until `finished` or the end of its ``with``.

    Attributes:
        started: Monotonic time of its start, in seconds.
    """

    _limit: ConcurrencyLimit
    _permit: Permit
    started: float

    def finished(self, *, failed: bool) -> None:
        """The handler has ended.

        Args:
            failed: Whether it raised.
        """
        self._limit.finished(self._permit, self.started, time.monotonic(), failed=failed)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *_: object) -> None:
        self.finished(failed=kind is not None)


class Capacity:
    """The limits of one worker.

    Args:
        limit: What all functions share that have none of their own; None for no limit.
    """

    def __init__(self, limit: Limit | None) -> None:
        self._shared = _made(limit, None)
        self._own: dict[str, ConcurrencyLimit] = {}
        self._log = _RefusalLog()

    def limit_of(self, function_id: str, limit: Limit | None) -> ConcurrencyLimit | None:
        """The limit of a function that is being registered.

        Args:
            function_id: The function.
            limit: Its own, None for none at all, or `SAME_AS_WORKER`.

        Raises:
            TypeError: It is not a limit.
        """
        if limit is SAME_AS_WORKER:
            self._own.pop(function_id, None)
            return self._shared
        made = _made(limit, function_id)
        if made is None:
            self._own.pop(function_id, None)
        else:
            self._own[function_id] = made
        return made

    def in_use(self) -> tuple[LimitUse, ...]:
        """The limits, that of the worker first."""
        found = ([] if self._shared is None else [self._shared]) + list(self._own.values())
        return tuple(
            LimitUse(one.function_id, one.limit, one.running, one.waiting, one.refused)
            for one in found
        )

    def refuse(
        self, function_id: str, limit: ConcurrencyLimit, payload: Any, attempt: int
    ) -> tuple[str, dict[str, Any] | None]:
        """Count and log a call that is not started because its worker is full.

        Args:
            function_id: The function.
            limit: The limit that is reached.
            payload: What the call brought.
            attempt: The caller's attempt, from 1.

        Returns:
            The error's text, and what a request through an ``http`` trigger is answered with
            instead; None for other calls.
        """
        retry_after = limit.refuse()
        message = (
            f"Function {function_id} was not started: the limit of {limit.limit} handlers at once "
            f"of this {'function' if limit.function_id else 'worker'} is reached"
        )
        text = structured(
            Category.TRANSIENT,
            "OVERLOADED",
            message,
            function_id=function_id,
            retry_after_ms=None if retry_after is None else round(retry_after * 1000),
        )
        failure = classify({"code": "invocation_failed", "message": text}, function_id=function_id)
        self._log.add(function_id, failure, attempt)
        if not _from_http(payload):
            return text, None
        seconds = max(1, math.ceil(retry_after or 0.0))
        return text, {
            "status_code": _UNAVAILABLE,
            "headers": {"retry-after": str(seconds)},
            "body": {"error": {"code": "OVERLOADED", "message": message}},
        }

    def log_rest(self) -> None:
        """Log the refusals that no record has counted yet: the worker ends."""
        self._log.flush()


def _made(limit: Limit | None, function_id: str | None) -> ConcurrencyLimit | None:
    if limit is None:
        return None
    if not isinstance(limit, Limit):
        raise TypeError(f"limit must be a Limit or None, got {limit!r}")
    return ConcurrencyLimit(limit, function_id, time.monotonic())


def _from_http(payload: Any) -> bool:
    """Whether a request through an ``http`` trigger brought the payload.

    Such a payload has the channel of its response in it, which JSON cannot carry on: a call that
    passes the request on to another function does not look the same (docs/engine-notes.md, 10).
    """
    if not isinstance(payload, dict) or "response" not in payload:
        return False
    trigger = payload.get("trigger")
    return isinstance(trigger, dict) and trigger.get("type") == "http"


@attrs.frozen
class _Unlogged:
    """The refusals of one function since its last record.

    Attributes:
        since: Monotonic time of that record, in seconds.
        count: How many there were.
        failure: What the last one was.
        attempt: The attempt of its caller.
    """

    since: float
    count: int
    failure: Failure
    attempt: int


class _RefusalLog:
    """Counts each refusal, and logs them together: a worker that is full has no time for records.

    The first is logged at once, and then, as long as there are more, one record a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._functions: dict[str, _Unlogged] = {}

    def add(self, function_id: str, failure: Failure, attempt: int) -> None:
        worker_events.call_refused(function_id, failure)
        now = time.monotonic()
        with self._lock:
            known = self._functions.get(function_id)
            since, count = (now - _LOG_EVERY, 0) if known is None else (known.since, known.count)
            self._functions[function_id] = _Unlogged(since, count + 1, failure, attempt)
        # Not by a timer alone: that of an event loop which has ended never rings.
        if now - since >= _LOG_EVERY:
            self._log(function_id)
        elif not count:
            asyncio.get_running_loop().call_later(since + _LOG_EVERY - now, self._log, function_id)

    def flush(self) -> None:
        for function_id in list(self._functions):
            self._log(function_id)

    def _log(self, function_id: str) -> None:
        now = time.monotonic()
        with self._lock:
            unlogged = self._functions[function_id]
            self._functions[function_id] = attrs.evolve(unlogged, since=now, count=0)
        if unlogged.count:
            worker_events.calls_refused(
                function_id, unlogged.failure, unlogged.count, attempt=unlogged.attempt
            )

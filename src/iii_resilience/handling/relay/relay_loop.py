"""The relay of one worker: a thread that hands a store's messages over while it is the active one.

Committed rows go in order for each queue, retries when they are due. Knows nothing of what is in
them.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from iii_resilience.core.classify import classify
from iii_resilience.core.observers import where
from iii_resilience.handling.decorators.parked_message import FailureSummary
from iii_resilience.handling.relay.hand_over import (
    HandOver,
    NotEnqueuedError,
    RelayableStore,
    of_retry,
    of_row,
)
from iii_resilience.handling.relay.hand_over_rules import AfterFailure, QueuePauses, after_failure
from iii_resilience.handling.relay.relay_status import RelayReport, RelayStatus
from iii_resilience.sdk.connection import Connection
from iii_resilience.stores.protocol import StoreRefusedError, StoreUnavailableError
from iii_resilience.telemetry import logger, worker_events
from iii_resilience.telemetry.backlogs import backlogs

POLL: Final = 0.5
"""Seconds between two looks at the store, where nothing wakes the relay before."""
_STAND_BY: Final = 1.0  # seconds between two tries to become the active one
_AWAY_MOST: Final = 2.0  # seconds without a connection after which another relay may be active
_BATCH: Final = 50  # messages that are read at once
_CHECK_LOCK: Final = 1.0  # seconds after which the lock is looked at within a batch


class Relay:
    """The relay of one worker.

    Args:
        connection: The worker's connection.
        store: The store.
    """

    def __init__(self, connection: Connection, store: RelayableStore) -> None:
        self.store = store
        self._report = RelayReport()
        self._connection = connection
        self._relay_lock = store.relay_lock()
        self._pauses = QueuePauses(random.random)
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._seen_at = time.monotonic()  # when it was connected last
        self._checked_at = 0.0
        self._heard: Future[float] | None = None
        self._busy = False  # whether there was more than one look shows
        connection.on_change(self._connection_changed)
        backlogs.add(self)

    @property
    def status(self) -> RelayStatus:
        """How it fares."""
        return self._report.status

    def start(self) -> None:
        """Begin, on a thread of its own; where none can be started, the next connection tries."""
        thread = threading.Thread(target=self._run, name="iii-resilience relay", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            logger.warning("the relay has not begun: %s; it is tried again", error)
        else:
            self._thread = thread

    def _connection_changed(self) -> None:
        """Runs on the SDK's thread."""
        self._wake.set()
        if self._thread is None and not self._ends:
            self.start()

    def stop(self, seconds: float) -> None:
        """Let the message that is being handed over finish, and hand no other over.

        Args:
            seconds: What that may take. Afterwards its receipt is not waited for: it may be handed
                over twice.
        """
        self._stopping = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    # On its thread.

    def _run(self) -> None:
        try:
            while not self._ends:
                pause = self._safely()
                if not self._ends:
                    self._wake.wait(pause)
                self._wake.clear()
        finally:
            self._step_down()

    @property
    def _ends(self) -> bool:
        return self._stopping or self._connection.closed

    def _safely(self) -> float:
        """One round; seconds until the next one."""
        try:
            return self._round()
        except (StoreUnavailableError, StoreRefusedError) as away:
            self._report.stands_by()
            return self._all_wait("STORE_UNAVAILABLE", str(away))
        except Exception as error:  # one fault must not end the relay
            return self._all_wait(type(error).__name__, where(error))

    def _round(self) -> float:
        """Hand over what can be handed over now; seconds until the next round at the latest."""
        now = time.monotonic()
        if self._connection.connected:
            self._seen_at = now
        else:
            if now - self._seen_at > _AWAY_MOST:
                self._step_down()  # a relay that is connected takes over
            return POLL
        if (left := self._pauses.left(now)) > 0:
            return left
        if not self._relay_lock.active():
            self._stand_by()
            return _STAND_BY
        self._report.active()
        self._listen()
        found, pause = self._found(now)
        if self._report.to_count(now):
            self._report.counted(self.store.backlog())
        stuck: set[str] = set()
        for each in found:
            if self._ends or not self._hand_over(each, stuck, now):
                break
        else:
            self._pauses.worked(None)
            self._report.goes_on(None)
        now = time.monotonic()
        if not found and not self._pauses.held(now):
            self._report.nothing_waits()
        left, ends = self._pauses.left(now), self._pauses.next_end(now)
        return max(left, min(pause, POLL if ends is None else ends))

    def _listen(self) -> None:
        """Before the store is looked at: what is committed after that wakes this thread."""
        if self._heard is None or self._heard.done():
            self._heard = self._relay_lock.watch(busy=self._busy)
            if self._heard is not None:
                self._heard.add_done_callback(lambda _: self._wake.set())

    def _found(self, now: float) -> tuple[list[HandOver], float]:
        """What is to be handed over, and seconds after which there may be more."""
        store, held = self.store, self._pauses.held(now)
        rows = store.outbox(without=held, most=_BATCH)
        records, next_due = store.due(without=held, most=_BATCH)
        self._busy = len(rows) >= _BATCH
        found = [of_row(store, row) for row in rows]
        found += [each for record in records if (each := of_retry(store, record)) is not None]
        if self._busy or len(records) >= _BATCH:
            return found, 0.0
        return found, min(POLL, POLL if next_due is None else max(0.0, next_due))

    def _hand_over(self, each: HandOver, stuck: set[str], since: float) -> bool:
        """Hand one message over; whether the next one may follow.

        Args:
            each: The message.
            stuck: The queues whose earlier messages of this round were not handed over.
            since: Monotonic time at which the round began, in seconds.
        """
        now = time.monotonic()
        if each.queue in stuck:  # though its pause may be over by now: the order is to be kept
            return True
        if now - max(since, self._checked_at) > _CHECK_LOCK:
            self._checked_at = now
            if not self._relay_lock.active():
                return False
        if not each.begin():
            return True
        try:
            each.send(self._connection)
        except Exception as error:
            return self._failed(each, stuck, error)
        each.done()
        self._pauses.worked(each.queue)
        self._pauses.worked(None)
        self._report.goes_on(each.queue, None)
        return True

    def _failed(self, each: HandOver, stuck: set[str], error: Exception) -> bool:
        unanswered = error.failure if isinstance(error, NotEnqueuedError) else None
        failure = unanswered or classify(error)
        what = after_failure(failure, self._pauses.failed(each.queue))
        if what is AfterFailure.PARK:
            summary = FailureSummary.of(error)
            if unanswered is not None:
                summary = FailureSummary(failure.code, failure.category, failure.remedy, str(error))
            if self._parks(each, summary):
                self._pauses.worked(each.queue)
                return True
        if what is AfterFailure.ALL_WAIT:
            self._pauses.worked(each.queue)
            self._all_wait(failure.code, failure.remedy)
            return False
        stuck.add(each.queue)
        self._pauses.wait(each.queue, time.monotonic())
        self._report.waits(each.queue, failure.code, failure.remedy)
        return True

    @staticmethod
    def _parks(each: HandOver, summary: FailureSummary) -> bool:
        """Park a message; whether it is parked, as all are that the store can keep."""
        try:
            parked = each.park(summary)
        except (StoreUnavailableError, StoreRefusedError):
            raise
        except Exception as fault:  # its queue waits then, and no other one
            logger.error(
                "%s: a message can be neither enqueued nor parked: %s",
                each.function_id,
                where(fault),
                extra={"function_id": each.function_id, "code": summary.code},
            )
            return False
        worker_events.not_enqueued(
            each.function_id, each.queue, summary.code, summary.category, parked
        )
        return True

    def _all_wait(self, code: str, why: str) -> float:
        now = time.monotonic()
        self._pauses.failed(None)
        self._pauses.wait(None, now)
        self._report.waits(None, code, why)
        return self._pauses.left(now)

    def _stand_by(self) -> None:
        heard, self._heard = self._heard, None
        if heard is not None:
            heard.cancel()
        self._report.stands_by()

    def _step_down(self) -> None:
        self._stand_by()
        with suppress(StoreUnavailableError, StoreRefusedError):  # then its time is over soon
            self._relay_lock.release()

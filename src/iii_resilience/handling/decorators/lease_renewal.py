"""Renews leases while handlers run: one thread for all calls of a handler.

All leases that are due go to the store in one round trip where it has `renew_many`. To any other
store each goes on a thread of its own: one that waits must not let the others run out. Knows
nothing of handlers, nor of what is done once a lease is lost.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from iii_resilience.core.observers import where
from iii_resilience.stores.protocol import Renewal, Store, StoreUnavailableError
from iii_resilience.telemetry import logger

_IDLE = 5.0  # seconds without a lease, after which the thread ends
_PARTS = 3  # a lease survives two renewals that fail
_AT_ONCE_MOST = 32  # renewals under way on threads of their own


@attrs.define(eq=False)
class _Held:
    renewal: Renewal
    due: float
    under_way: bool = False


class _Hold:
    """While a lease is renewed. A class: what the handler raises passes through untouched."""

    def __init__(self, renewer: LeaseRenewer, held: _Held) -> None:
        self._renewer = renewer
        self._held = held

    def __enter__(self) -> None:
        self._renewer.begin(self._held)

    def __exit__(self, *_: object) -> None:
        self._renewer.let_go(self._held)


class LeaseRenewer:
    """Renews leases that this process holds, on a thread that lives as long as there are any.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        many: Any = getattr(store, "renew_many", None)
        self._renew_many: Callable[[Sequence[Renewal]], Sequence[bool]] | None = many
        self._warned: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._held: set[_Held] = set()
        self._thread: threading.Thread | None = None

    def hold(self, slot: str, token: int, *, lease: float, keep: float) -> _Hold:
        """While a handler runs.

        Args:
            slot: Its key.
            token: Its claim.
            lease: Seconds its lease lasts; it is renewed three times as often.
            keep: Seconds the key's row is kept beyond that.

        Returns:
            A context manager. Entering it raises RuntimeError where no thread can be started that
            would renew the lease; the next call tries again.
        """
        held = _Held(Renewal(slot, token, lease, keep), time.monotonic() + lease / _PARTS)
        return _Hold(self, held)

    def begin(self, held: _Held) -> None:
        """Renew a lease from now on."""
        if self._pid != os.getpid():
            self._begin()  # forked: the thread, and what it renewed, are the parent's
        with self._changed:
            self._start()
            self._held.add(held)
            self._changed.notify()

    def let_go(self, held: _Held) -> None:
        """Renew a lease no longer."""
        with self._changed:
            self._held.discard(held)

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._run, name="iii-resilience leases", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._warn_once("no thread could be started that renews leases (%s)", error)
            raise
        self._thread = thread

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            with self._changed:
                now = time.monotonic()
                waiting = [one for one in self._held if not one.under_way]
                if self._held:
                    idle_since = now
                elif idle_since + _IDLE <= now:
                    self._thread = None
                    return
                soonest = min((one.due for one in waiting), default=now + _IDLE)
                under_way = len(self._held) - len(waiting)
                if soonest > now or under_way >= _AT_ONCE_MOST:
                    self._changed.wait(soonest - now if soonest > now else _IDLE)
                    continue
                due = self._begin_due(waiting, now, _AT_ONCE_MOST - under_way)
            self._renew(due)

    def _begin_due(self, waiting: list[_Held], now: float, most: int) -> list[_Held]:
        """The leases to renew now, marked as under way."""
        if self._renew_many is None:
            due = [one for one in waiting if one.due <= now][:most]
        else:  # those that are due soon cost nothing more
            due = [one for one in waiting if one.due - one.renewal.lease / (2 * _PARTS) <= now]
        for one in due:
            one.under_way = True
        return due

    def _renew(self, due: list[_Held]) -> None:
        many = self._renew_many
        if many is not None:
            self._ask(due, lambda: many([one.renewal for one in due]))
            return
        for one in due:
            if not self._store.blocking or not self._renew_aside(one):
                self._renew_one(one)

    def _renew_aside(self, held: _Held) -> bool:
        """Renew on a thread of its own; whether one could be started."""
        thread = threading.Thread(
            target=self._renew_one, args=(held,), name="iii-resilience renewal", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self._warn_once("no thread could be started for a renewal (%s)", error)
            return False
        return True

    def _renew_one(self, held: _Held) -> None:
        one = held.renewal
        self._ask(
            [held],
            lambda: [self._store.renew(one.slot, one.token, lease=one.lease, keep=one.keep)],
        )

    def _ask(self, due: list[_Held], renew: Callable[[], Sequence[bool]]) -> None:
        began = time.monotonic()
        mine: Sequence[bool] = ()
        try:
            mine = renew()
        except StoreUnavailableError:
            logger.warning("a lease could not be renewed: the store is away; it is tried again")
        except Exception as error:  # a user's store: the other leases have to be renewed
            # Not the traceback: what a store says may name keys.
            logger.error("a lease could not be renewed: %s", where(error))
        took = time.monotonic() - began
        shortest = min(one.renewal.lease for one in due)
        if took > shortest / _PARTS:
            self._warn_once(
                "a renewal took %.3g s, and a lease lasts %.3g s: a key may run twice while its "
                "worker lives. Give idempotent() a lease of at least %.3g s",
                took,
                shortest,
                2 * _PARTS * took,
            )
        with self._changed:
            for one in due:
                one.under_way = False
                # An attempt that failed at once is not repeated at once.
                one.due = max(began + one.renewal.lease / _PARTS, began + took)
            for one, still_mine in zip(due, mine, strict=False):
                if not still_mine:
                    self._held.discard(one)
            self._changed.notify()

    def _warn_once(self, text: str, *details: Any) -> None:
        with self._changed:  # renewals that end together are on threads of their own
            first = text not in self._warned
            self._warned.add(text)
        if first:
            logger.warning(text, *details)

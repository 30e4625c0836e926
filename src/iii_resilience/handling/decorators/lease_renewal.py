"""Leases that are renewed while handlers run: one thread for all calls of a handler.

Knows nothing of handlers, nor of what is done once a lease is lost.
"""

from __future__ import annotations

import os
import threading
import time

import attrs

from iii_resilience.stores.protocol import Keys, StoreUnavailableError
from iii_resilience.telemetry import logger
from iii_resilience.telemetry.logs import where

_IDLE = 5.0  # seconds without a lease, after which the thread ends
_PARTS = 3  # a lease survives two renewals that fail


@attrs.define(eq=False)
class _Held:
    slot: str
    token: int
    lease: float
    keep: float
    due: float


class _Hold:
    """While a lease is renewed. A class: what the handler raises passes through untouched."""

    def __init__(self, renewer: LeaseRenewer, held: _Held) -> None:
        self._renewer = renewer
        self._held = held

    def __enter__(self) -> None:
        """The lease is renewed already."""

    def __exit__(self, *_: object) -> None:
        self._renewer.let_go(self._held)


class LeaseRenewer:
    """Renews leases that this process holds, on a thread that lives as long as there are any.

    Args:
        store: The store.
    """

    def __init__(self, store: Keys) -> None:
        self._store = store
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
        """
        if self._pid != os.getpid():
            self._begin()  # forked: the thread, and what it renewed, are the parent's
        held = _Held(slot, token, lease, keep, time.monotonic() + lease / _PARTS)
        with self._changed:
            soonest = min((one.due for one in self._held), default=None)
            self._held.add(held)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="iii-resilience leases", daemon=True
                )
                self._thread.start()
            elif soonest is None or held.due < soonest:
                self._changed.notify()
        return _Hold(self, held)

    def let_go(self, held: _Held) -> None:
        """Renew a lease no longer."""
        with self._changed:
            self._held.discard(held)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            with self._changed:
                now = time.monotonic()
                if self._held:
                    idle_since = now
                    wait = min(one.due for one in self._held) - now
                else:
                    wait = idle_since + _IDLE - now
                    if wait <= 0:
                        self._thread = None
                        return
                if wait > 0:
                    self._changed.wait(wait)
                now = time.monotonic()
                due = [one for one in self._held if one.due <= now]
            for one in due:
                self._renew(one)

    def _renew(self, held: _Held) -> None:
        mine = True
        try:
            mine = self._store.renew(held.slot, held.token, lease=held.lease, keep=held.keep)
        except StoreUnavailableError:
            logger.warning("a lease could not be renewed: the store is away; it is tried again")
        except Exception as error:  # somebody else's store: the other leases have to be renewed
            # Not the traceback: what a store says may name keys.
            logger.error("a lease could not be renewed: %s", where(error))
        held.due = time.monotonic() + held.lease / _PARTS
        if not mine:
            self.let_go(held)

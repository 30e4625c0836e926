"""In the child of a fork budgets, circuits and gates are new, and nobody holds their locks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from iii_resilience import Breaker, Budget, Bulkhead, CircuitOpenError, iii_retry
from iii_resilience.core.guards.breaker import Rejection, Ticket

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_child(work: Callable[[], object]) -> str:
    """What the work says in a forked child, within 5 seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        answer = "an error"
        try:
            answer = repr(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    until = time.monotonic() + 10
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reader)
            return "it hung"
        time.sleep(0.01)
    with os.fdopen(reader) as pipe:
        return pipe.read()


def while_another_thread_holds(lock: Any, work: Callable[[], object]) -> str:
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            go_on.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    try:
        return in_child(work)
    finally:
        go_on.set()
        thread.join()


def test_budget_is_full_and_its_lock_is_free() -> None:
    budget = Budget(ratio=0.0, burst=1, min_per_second=0.0)
    bucket = budget.bucket_for("f")
    assert bucket.reserve(1.0)
    assert not bucket.reserve(1.0)

    def work() -> object:
        return bucket.taken, bucket.reserve(1.0), budget.bucket_for("f") is bucket

    assert while_another_thread_holds(bucket._lock, work) == "(0, True, True)"
    assert bucket.available(1.0) == 0.0, "the parent's own count stays"


def test_circuit_is_closed_and_its_lock_is_free() -> None:
    breaker = Breaker(min_calls=1, open=1e6)
    circuit = breaker.circuit_for("f")
    ticket = circuit.admit(1.0)
    assert isinstance(ticket, Ticket)
    circuit.failed(ticket, 1.0, 0.1)
    assert isinstance(circuit.admit(1.0), Rejection)

    def work() -> object:
        return isinstance(circuit.admit(1.0), Ticket)

    assert while_another_thread_holds(circuit._lock, work) == "True"
    assert isinstance(circuit.admit(1.0), Rejection)


def test_nobody_is_inside_gate_and_its_lock_is_free() -> None:
    bulkhead = Bulkhead(limit=1)
    slots = bulkhead.slots_for("f")
    permit = slots.acquire(None)
    assert permit is not None

    def work() -> object:
        before, got = slots.inside, slots.acquire(0.0)
        return before, got is not None, slots.inside

    assert while_another_thread_holds(slots._lock, work) == "(0, True, 1)"
    assert slots.inside == 1
    slots.release(permit)


def test_decorated_function_goes_on_in_child() -> None:
    @iii_retry(idempotent=True, attempts=1, breaker=Breaker(min_calls=1, open=1e6))
    def fails() -> None:
        raise ConnectionResetError

    for expected in (ConnectionResetError, CircuitOpenError):
        with pytest.raises(expected):
            fails()

    def work() -> object:
        try:
            fails()
        except Exception as error:
            return type(error).__name__
        return None

    assert in_child(work) == "'ConnectionResetError'"

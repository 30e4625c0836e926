"""A thread that cannot be started once is a transient failure, and is started the next time."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.drains import handled_by
from support.waiting import until

from iii_resilience import classify, resilient
from iii_resilience.core.codes.model import Category
from iii_resilience.handling import RegistrationState
from iii_resilience.handling.registration.drain_signal import drain_at
from iii_resilience.handling.registration.keeper import Keeper, keeper
from iii_resilience.sdk import event_loops
from iii_resilience.testing import LoopbackEngine


class NoThreads:
    """Lets no thread with a word in its name start, as long as it refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
        self.refuses = True
        self.refused = 0
        start = threading.Thread.start

        def refusing(thread: threading.Thread) -> None:
            if self.refuses and word in thread.name:
                self.refused += 1
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refusing)


def test_handler_that_got_no_thread_fails_as_transient(
    engine: LoopbackEngine,
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, caller = resilient(connect("worker")), connect("caller")
    worker.register_function("t::plain", lambda data: "done")
    engine.wait_registered("t::plain")
    request = {"function_id": "t::plain", "payload": {}}
    threads = NoThreads(monkeypatch, "t::plain")
    with pytest.raises(Exception, match="THREAD_UNAVAILABLE") as caught:
        caller.trigger(request)
    assert classify(caught.value).category is Category.TRANSIENT
    threads.refuses = False
    assert caller.trigger(request) == "done"


def test_keeper_that_could_not_start_does_with_next_event(
    engine: LoopbackEngine,
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("iii_resilience.handling.registration.keeper._keeper", Keeper())
    threads = NoThreads(monkeypatch, "keeper")
    with caplog.at_level(logging.WARNING, "iii_resilience"):
        worker = resilient(connect("kept"), keep_registered=True)
        worker.register_function("t::f", lambda data: "done")
        worker.register_function("t::g", lambda data: "done")
    assert threads.refused >= 2
    said = [r for r in caplog.records if "not kept registered yet" in r.getMessage()]
    assert len(said) == 1
    threads.refuses = False
    worker.register_function("t::h", lambda data: "done")
    until(lambda: [r.state for r in worker.registrations()] == [RegistrationState.OWNER] * 3)
    worker.shutdown()
    until(lambda: keeper()._thread is None)


def test_substitute_loop_is_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loops._Substitute, "loop", None)
    threads = NoThreads(monkeypatch, "iii-resilience")
    with pytest.raises(RuntimeError, match="can't start"):
        event_loops.substitute_loop()
    threads.refuses = False
    loop = event_loops.substitute_loop()
    until(loop.is_running)
    loop.call_soon_threadsafe(loop.stop)
    until(lambda: not loop.is_running())
    loop.close()


def test_drain_that_could_not_start_does_with_next_signal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drained: list[bool] = []
    ended = threading.Event()
    threads = NoThreads(monkeypatch, "drain")
    with handled_by(signal.SIGUSR2, ended.set):
        drain_at(signal.SIGUSR2, lambda: drained.append(True))
        os.kill(os.getpid(), signal.SIGUSR2)
        until(lambda: "send the signal again" in caplog.text)
        threads.refuses = False
        os.kill(os.getpid(), signal.SIGUSR2)
        until(ended.is_set)
        assert drained == [True]

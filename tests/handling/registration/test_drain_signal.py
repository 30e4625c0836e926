"""Draining at a signal, whichever thread of the process is interrupted by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest
from support.drains import handled_by
from support.waiting import until

from iii_resilience.handling.registration.drain_signal import drain_at
from iii_resilience.testing import LoopbackEngine

CALL = {"function_id": "t::slow", "payload": {}, "timeout_ms": 60_000}
PROGRAM = """
    import signal, sys, time
    from iii import InitOptions, register_worker
    from iii_resilience import resilient
    {before}
    worker = resilient(register_worker({url!r}, InitOptions(worker_name="child",
        otel={{"enabled": False}})), keep_registered=True)
    def slow(data):
        print("started", flush=True)
        time.sleep(1)
        return "done"
    worker.register_function("t::slow", slow)
    worker.drain_at_sigterm(60)
    print("ready", flush=True)
    try:
        while True:
            time.sleep(60)
    finally:
        print("ended", flush=True)
"""


class TestSigterm:
    @pytest.mark.parametrize(
        ("before", "code", "said"),
        [
            ("", 0, ["ready", "started", "ended"]),
            (
                "signal.signal(15, lambda *_: (print('mine', flush=True), sys.exit(7)))",
                7,
                ["ready", "started", "mine", "ended"],
            ),
        ],
        ids=["default", "own"],
    )
    def test_process_drains_and_ends(
        self, engine: LoopbackEngine, target: Any, before: str, code: int, said: list[str]
    ) -> None:
        program = textwrap.dedent(PROGRAM).format(url=engine.url, before=before)
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            engine.wait_registered("t::slow")
            answers: list[Any] = []
            caller = threading.Thread(target=lambda: answers.append(target.trigger(CALL)))
            caller.start()
            engine.wait_calls("t::slow")
            time.sleep(0.3)
            child.send_signal(signal.SIGTERM)
            child.send_signal(signal.SIGTERM)  # impatience changes nothing
            caller.join(60)
            out, _ = child.communicate(timeout=60)
        finally:
            child.kill()
            child.wait()
        assert answers == ["done"]
        assert ["ready", *out.split()] == said
        assert child.returncode == code

    def test_main_thread_that_missed_signal_gets_another(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended = threading.Event()
        sent: list[int] = []
        send = signal.pthread_kill

        def lose_first(thread: int, number: int) -> None:
            sent.append(number)
            if len(sent) > 1:
                send(thread, number)

        monkeypatch.setattr(signal, "pthread_kill", lose_first)
        with handled_by(signal.SIGUSR2, ended.set):
            drain_at(signal.SIGUSR2, lambda: None)
            os.kill(os.getpid(), signal.SIGUSR2)
            until(ended.is_set)
        # Once more each half second in which the main thread gets no processor time.
        assert len(sent) >= 2
        assert set(sent) == {signal.SIGUSR2}

    def test_signal_that_another_thread_takes_drains_too(self) -> None:
        ended, drained = threading.Event(), threading.Event()
        others = threading.Event()
        threading.Thread(target=others.wait, daemon=True).start()  # takes it
        with handled_by(signal.SIGUSR2, ended.set):
            try:
                drain_at(signal.SIGUSR2, drained.set)
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
                os.kill(os.getpid(), signal.SIGUSR2)
                assert drained.wait(60), "the main thread sleeps here, and is not interrupted"
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
                until(ended.is_set)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
                others.set()

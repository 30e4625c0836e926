"""Runs the rows of a simulation side by side, each in a process of its own.

Knows nothing of what a row does.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from iii_resilience.cli.simulation.measurement import Row
from iii_resilience.cli.simulation.row_run import RowSetting, run_row
from iii_resilience.cli.simulation.scenario import Scenario

# Objects made between two collections. A run makes few cycles, and looks for them in vain.
_COLLECT_AFTER = (50_000, 20, 50)
_NEARLY = 0.999  # of a row whose result is still to come


class RowFailedError(RuntimeError):
    """A row's process ended without a result."""


def run_rows(
    settings: Sequence[RowSetting],
    scenario: Scenario,
    seed: int,
    progress: Callable[[int, float], object] = lambda _, __: None,
    processes: int | None = None,
) -> list[Row]:
    """Run rows.

    Args:
        settings: The rows.
        scenario: What happens in each of them.
        seed: Of all random numbers.
        progress: Is called with a row's number, from 0, and the part of it that is done; with 1
            once, when it has ended.
        processes: How many run at once; None for one a processor.

    Raises:
        RowFailedError: A process ended without a result.
    """
    waiting = deque(enumerate(settings))
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    done: dict[int, Row] = {}
    # Not forked: a fork takes the parent's threads' locks and its event loop along.
    context = multiprocessing.get_context("spawn")
    try:
        while waiting or running:
            while waiting and len(running) < (processes or os.cpu_count() or 1):
                number, setting = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_work, args=(theirs, setting, scenario, seed), daemon=True
                )
                process.start()
                theirs.close()
                running[ours] = (number, process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)  # noqa: S101 - for the type checker
                number, worker = running[ready]
                try:
                    message = ready.recv()
                except EOFError:
                    message = "its process ended without a word"
                if isinstance(message, float):
                    progress(number, min(message, _NEARLY))
                    continue
                if isinstance(message, str):
                    raise RowFailedError(f"the row {settings[number].name!r} failed: {message}")
                del running[ready]
                ready.close()
                worker.join()
                done[number] = message
                progress(number, 1.0)
    finally:
        for connection, (_, process) in running.items():
            process.terminate()
            process.join()
            connection.close()
    return [done[number] for number in range(len(settings))]


def _work(results: Connection, setting: RowSetting, scenario: Scenario, seed: int) -> None:
    """One row, in its process: reports its progress, and then its result or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        results.send(run_row(setting, scenario, seed, results.send))
    except Exception:
        results.send(traceback.format_exc())
    finally:
        results.close()

"""A worker process that any version of the library can run; it uses public names only.

Arguments: the engine's address, the worker's name, what it serves (``serve``, ``once``, ``park``),
its store (a SQLite file, a ``redis://`` URL, or ``-``), and the file that its handlers write to.
Commands come as lines on standard input, and each is answered with one line of JSON. The process
ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iii import InitOptions, register_worker

import iii_resilience
from iii_resilience import resilient
from iii_resilience.handling import PermanentError, consumer, idempotent
from iii_resilience.stores import RedisStore, SqliteStore, Store

Handler = Callable[[Any], Any]


def answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


def open_store(place: str) -> Store:
    return RedisStore(place) if place.startswith("redis://") else SqliteStore(place)


def main(url: str, name: str, role: str, place: str, log: str) -> None:
    client = register_worker(url, InitOptions(worker_name=name, otel={"enabled": False}))
    worker = resilient(client, keep_registered=role == "serve")
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(data: Any) -> None:
        os.write(file, f"{json.dumps(data['n'])} {name}\n".encode())

    def serve(data: Any) -> str:
        return name

    def once(data: Any) -> str:
        note(data)
        time.sleep(data.get("takes", 0.0))
        if data.get("fails"):
            raise PermanentError("declined", code="CARD_DECLINED")
        return name

    def park(data: Any) -> str:
        note(data)
        if not Path(f"{log}.mended").exists():
            raise PermanentError("declined", code="CARD_DECLINED")
        return name

    if role == "serve":
        worker.register_function("compat::f", serve)
    elif role == "once":
        # Both versions serve at once, under ids of their own, what shares one key.
        by_field: Handler = idempotent(open_store(place), key="n", function_id="compat::pay")(once)
        carried: Handler = idempotent(open_store(place), function_id="compat::carried")(once)
        worker.register_function(f"compat::pay-{name}", by_field)
        worker.register_function(f"compat::carried-{name}", carried)
    else:
        parking: Handler = consumer(
            parking=open_store(place), key="n", function_id="compat::job", queue="jobs"
        )(park)
        worker.register_function("compat::job", parking)
    answer(str(Path(iii_resilience.__file__).parent))
    for line in sys.stdin:
        if line.strip() == "drain":
            drained = worker.drain(10)
            answer({"handed_over": drained.handed_over, "seconds": drained.seconds})
        else:
            answer({one.id: one.state.value for one in worker.registrations()})
    worker.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])

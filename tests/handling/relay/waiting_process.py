"""A consumer that is killed when its failure is on record and not acknowledged: ``URL STORE``."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from iii import InitOptions, register_worker

from iii_resilience import Backoff, resilient
from iii_resilience.handling import TransientError, consumer
from iii_resilience.stores import SqliteStore


def main(url: str, where: str) -> None:
    store: Any = SqliteStore(where)
    postpones = store.postpone

    def postpone(*of: Any, **more: Any) -> None:
        postpones(*of, **more)
        print("recorded", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    store.postpone = postpone
    later = Backoff(base=900.0, cap=900.0, jitter="none")

    @consumer(parking=store, key="n", queue="orders", retry_later=later)
    def save(data: Any) -> None:
        raise TransientError("busy")

    worker = resilient(register_worker(url, InitOptions(otel={"enabled": False})))
    worker.register_function("orders::save", save)
    print("serves", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])

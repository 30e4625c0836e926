"""A worker that takes orders from a queue and writes each exactly once.

    python examples/worker_store.py --loopback     # an engine and a caller included
    III_URL=ws://127.0.0.1:49134 python examples/worker_store.py

Needs: pip install 'iii-resilience[iii,testing]'
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import time
from contextlib import ExitStack, closing
from typing import Any

from iii import InitOptions, TriggerAction, register_worker

from iii_resilience import ensure_queue, resilient
from iii_resilience.handling import PermanentError, consumer, idempotent
from iii_resilience.stores import SqliteStore
from iii_resilience.testing import LoopbackEngine

DATABASE = os.environ.get("ORDERS_DB", "orders.db")


# [handler]
with closing(sqlite3.connect(DATABASE)) as setup, setup:
    setup.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT, amount INTEGER)")

store = SqliteStore(DATABASE)


@consumer(parking=store, key="order_id", queue="orders", max_deliveries=5)
@idempotent(store, key="order_id")
def place(order: dict[str, Any], transaction: sqlite3.Connection) -> str:
    """Write an order in the transaction that keeps its key."""
    if order["amount"] > 1000:
        raise PermanentError("the card was declined", code="CARD_DECLINED")
    transaction.execute("INSERT INTO orders VALUES (?, ?)", (order["order_id"], order["amount"]))
    return "placed"


# [end]


# [queue]
def serve(url: str | None = None) -> Any:
    """Register the handler, and define the queue if it is not there yet."""
    worker = resilient(
        register_worker(url, InitOptions(worker_name="order-worker")), keep_registered=True
    )
    worker.register_function("orders::place", place)
    ensure_queue(worker, "orders", max_retries=5, timeout=60.0)
    return worker


# [end]


def loopback() -> None:
    """Send each order twice and one that is declined; print what became of them."""
    with ExitStack() as stack:
        engine = stack.enter_context(LoopbackEngine())
        worker = serve(engine.url)
        stack.callback(worker.shutdown)
        engine.wait_registered("orders::place")
        orders = [{"order_id": f"o-{n}", "amount": 10 * n} for n in range(1, 6)]
        declined = {"order_id": "o-6", "amount": 5000}
        for order in [*orders, *orders, declined]:
            worker.trigger(
                {
                    "function_id": "orders::place",
                    "payload": order,
                    "action": TriggerAction.Enqueue(queue="orders"),
                }
            )
        until = time.monotonic() + 20
        while time.monotonic() < until and _counts() != (5, 1):
            time.sleep(0.05)
        written, parked = _counts()
        print(f"{written} orders written, {parked} parked")


def _counts() -> tuple[int, int]:
    with closing(sqlite3.connect(DATABASE)) as connection:
        (written,) = connection.execute("SELECT count(*) FROM orders").fetchone()
    return written, sum(record.parked_at is not None for record in store.records())


def main() -> None:
    """Run the worker."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--loopback", action="store_true", help="start an engine, and send orders")
    if parser.parse_args().loopback:
        loopback()
        return
    worker = serve()
    worker.drain_at_sigterm(timeout=30)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()

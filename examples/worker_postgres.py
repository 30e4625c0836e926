"""A payment and the order that follows it, each exactly once, with PostgreSQL and an outbox.

    export DATABASE_URL=postgresql://user@host/name
    python examples/worker_postgres.py --loopback     # an engine and a caller included
    III_URL=ws://127.0.0.1:49134 python examples/worker_postgres.py

Needs: pip install 'iii-resilience[iii,postgres,testing]'
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from typing import Any

import psycopg
from iii import InitOptions, TriggerAction, register_worker

from iii_resilience import Backoff, ensure_queue, resilient
from iii_resilience.handling import PermanentError, TransientError, consumer, idempotent
from iii_resilience.stores import PostgresStore
from iii_resilience.testing import LoopbackEngine

DATABASE = os.environ.get("DATABASE_URL", "")
try:
    with psycopg.connect(DATABASE, connect_timeout=5) as setup:
        setup.execute("CREATE TABLE IF NOT EXISTS payments (id text, amount integer)")
        setup.execute("CREATE TABLE IF NOT EXISTS orders (id text)")
except psycopg.OperationalError:
    sys.exit(
        "there is no PostgreSQL: set DATABASE_URL=postgresql://user@host/name to one that runs"
    )

# [payment]
store = PostgresStore(DATABASE)


@consumer(parking=store, key="payment_id", queue="payments", max_deliveries=5)
@idempotent(store, key="payment_id", rerun=True)
def take(payment: dict[str, Any], transaction: psycopg.Connection) -> str:
    """Write a payment, and the message that orders what it is for, in one transaction."""
    if payment["amount"] > 1000:
        raise PermanentError("the card was declined", code="CARD_DECLINED")
    key = payment["payment_id"]
    transaction.execute("INSERT INTO payments VALUES (%s, %s)", (key, payment["amount"]))
    store.enqueue(transaction, "orders", "orders::save", {"order_id": key}, key=key)
    return "taken"


# [end]

seen: set[str] = set()


# [order]
@consumer(
    parking=store, key="order_id", queue="orders", max_deliveries=5, retry_later=Backoff(base=0.1)
)
@idempotent(store, key="order_id", rerun=True)
def save(order: dict[str, Any], transaction: psycopg.Connection) -> str:
    """Write an order. The stock answers at the second try only."""
    if order["order_id"] not in seen:
        seen.add(order["order_id"])
        raise TransientError("the stock does not answer", code="STOCK_BUSY", retry_after=0.2)
    transaction.execute("INSERT INTO orders VALUES (%s)", (order["order_id"],))
    return "saved"


# [end]


# [serve]
def serve(url: str | None = None) -> Any:
    """Register the handlers, relay what they enqueue, and define the queues."""
    worker = resilient(
        register_worker(url, InitOptions(worker_name="shop-worker")),
        keep_registered=True,
        relay=store,
    )
    worker.register_function("payments::take", take)
    worker.register_function("orders::save", save)
    for queue in ("payments", "orders"):
        ensure_queue(worker, queue, max_retries=5, timeout=60.0)
    return worker


# [end]


def loopback() -> None:
    """Send each payment twice and one that is declined; print what became of them."""
    with ExitStack() as stack:
        engine = stack.enter_context(LoopbackEngine())
        stack.callback(store.close)
        worker = serve(engine.url)
        stack.callback(worker.shutdown)
        engine.wait_registered("payments::take", "orders::save")
        payments = [{"payment_id": f"p-{n}", "amount": 10 * n} for n in range(1, 6)]
        declined = {"payment_id": "p-6", "amount": 5000}
        for payment in [*payments, *payments, declined]:
            worker.trigger(
                {
                    "function_id": "payments::take",
                    "payload": payment,
                    "action": TriggerAction.Enqueue(queue="payments"),
                }
            )
        until = time.monotonic() + 20
        while time.monotonic() < until and _counts() != (5, 5, 1):
            time.sleep(0.05)
        paid, ordered, parked = _counts()
        print(f"{paid} payments, {ordered} orders, {parked} parked")


def _counts() -> tuple[int, int, int]:
    with psycopg.connect(DATABASE) as connection:
        (paid,) = connection.execute("SELECT count(*) FROM payments").fetchone() or (0,)
        (ordered,) = connection.execute("SELECT count(*) FROM orders").fetchone() or (0,)
    return paid, ordered, sum(record.parked_at is not None for record in store.records())


def main() -> None:
    """Run the worker."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--loopback", action="store_true", help="start an engine, and send payments"
    )
    if parser.parse_args().loopback:
        loopback()
        return
    worker = serve()
    worker.drain_at_sigterm(timeout=30)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()

"""The processes of the payments test: who pays, who relays, and who writes the orders.

Run by the test: ``payments.py pay STORE PAYMENTS``, ``… relay STORE URL``, ``… work STORE URL``.
Each ends when its standard input does.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from iii import InitOptions, register_worker
from iii.iii_constants import ReconnectionConfig

from iii_resilience import Backoff, resilient
from iii_resilience.handling import TransientError, consumer, idempotent
from iii_resilience.stores import PostgresStore, SqliteStore, StoreUnavailableError

AHEAD = 20  # payments whose orders are not there yet: more are not made
MISTAKE = 7  # each such payment is undone
AWAY = (psycopg.Error, sqlite3.Error, StoreUnavailableError)


def open_store(address: str) -> Any:
    if address.startswith("postgresql"):
        return PostgresStore(address, connections=20, timeout=2.0)
    return SqliteStore(address, busy_timeout=60.0)


def open_database(address: str) -> Any:
    """A connection in whose transactions the payments are made."""
    if address.startswith("postgresql"):
        return psycopg.connect(address)
    return sqlite3.connect(address, timeout=60.0)


def holder(address: str) -> str:
    """What stands for a value in a statement."""
    return "%s" if address.startswith("postgresql") else "?"


def is_paid(n: int) -> bool:
    """Whether a payment is not undone."""
    return n % MISTAKE != 3


def pay(address: str, payments: int) -> None:
    """Make all payments, each with the message that orders what was paid for."""
    store, value = open_store(address), holder(address)
    for n in range(payments):
        while True:
            try:
                connection = open_database(address)
                try:
                    if not_yet(connection, value, n):
                        pay_once(connection, store, value, n)
                finally:
                    connection.close()
            except AWAY:
                time.sleep(0.05)
            else:
                break


def not_yet(connection: Any, value: str, n: int) -> bool:
    """Whether a payment has to be made; waits until the orders are not far behind."""
    while True:
        (paid,) = connection.execute("SELECT count(*) FROM payments").fetchone()
        (ordered,) = connection.execute("SELECT count(*) FROM orders").fetchone()
        connection.rollback()
        if paid - ordered < AHEAD:
            break
        time.sleep(0.02)
    found = connection.execute(f"SELECT 1 FROM payments WHERE id = {value}", (n,)).fetchone()
    connection.rollback()
    return found is None


def pay_once(connection: Any, store: Any, value: str, n: int) -> None:
    """One transaction: the payment, and the message."""
    connection.execute(f"INSERT INTO payments VALUES ({value})", (n,))
    time.sleep(random.uniform(0.0, 0.01))
    store.enqueue(connection, "orders", "orders::save", {"id": n}, key=f"order-{n}")
    time.sleep(random.uniform(0.0, 0.01))
    if is_paid(n):
        connection.commit()
    else:
        connection.rollback()


def client(url: str, name: str) -> Any:
    return register_worker(
        url,
        InitOptions(
            worker_name=f"{name}-{os.getpid()}",
            otel={"enabled": False},
            reconnection_config=ReconnectionConfig(initial_delay_ms=50, max_delay_ms=100),
        ),
    )


def relay(address: str, url: str) -> None:
    """Hand over what is committed, or stand by."""
    resilient(client(url, "relay"), relay=open_store(address))
    threading.Event().wait()


def work(address: str, url: str) -> None:
    """Write the orders. One in five tries fails with something that passes."""
    store, value = open_store(address), holder(address)
    later = Backoff(base=0.05, cap=0.5)

    @consumer(parking=store, key="id", queue="orders", retry_later=later)
    @idempotent(store, key="id", lease=3.0, wait=60.0)
    def save(data: Any, transaction: Any) -> int:
        if random.random() < 0.2:
            raise TransientError("busy", code="BUSY", retry_after=0.05)
        ahead = f"SELECT count(*) FROM payments WHERE id = {value}"
        (paid,) = transaction.execute(ahead, (data["id"],)).fetchone()
        time.sleep(random.uniform(0.0, 0.02))
        transaction.execute(f"INSERT INTO orders VALUES ({value}, {value})", (data["id"], paid))
        return int(data["id"])

    resilient(client(url, "orders")).register_function("orders::save", save)
    threading.Event().wait()


def until_let_go() -> None:
    with suppress(Exception):
        sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=until_let_go, daemon=True).start()
    role, *rest = sys.argv[1:]
    if role == "pay":
        pay(rest[0], int(rest[1]))
    else:
        roles: dict[str, Callable[[str, str], None]] = {"relay": relay, "work": work}
        roles[role](*rest)

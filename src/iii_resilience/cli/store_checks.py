"""The checks of ``iii-resilience doctor --store``: a PostgreSQL store as this machine sees it.

Knows nothing of how findings are printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from iii_resilience.cli.doctor import Finding
from iii_resilience.stores.postgres_status import PostgresStatus, postgres_status
from iii_resilience.stores.protocol import StoreRefusedError, StoreUnavailableError

_RENEWED: Final = 3  # times in a lease (docs/queues.md)
_CLOCKS: Final = 5.0  # seconds apart that are worth a word: the times of records are the server's


def examine_store(url: str, *, lease: float = 30.0) -> Iterator[Finding]:
    """Look at a store.

    Args:
        url: Its URL, ``postgresql://...``.
        lease: The lease of its handlers, in seconds.

    Raises:
        ValueError: It is not a URL of PostgreSQL.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("--store looks at postgresql:// stores only")
    try:
        status = postgres_status(url)
    except ImportError as error:
        yield Finding("store", str(error), "pip install 'iii-resilience[postgres]'", bad=True)
    except (StoreUnavailableError, StoreRefusedError) as error:
        yield Finding("store", str(error), f"Let this machine use the store: {error}.", bad=True)
    else:
        yield Finding("store", f"PostgreSQL {status.server} answers")
        yield _schema(status)
        if status.lacking:
            what = ", ".join(status.lacking)
            yield Finding("privileges", f"lacking: {what}", f"Grant this user {what}.", bad=True)
        elif status.version:
            yield Finding("privileges", "sufficient")
        yield from _relay(status)
        yield _clock(status)
        yield _latency(status, lease)


def _schema(status: PostgresStatus) -> Finding:
    seen = f"{status.schema} has version {status.version}; this library makes {status.wanted}"
    if status.oldest > status.wanted:
        return Finding("schema", seen, "Upgrade iii-resilience on this machine.", bad=True)
    if status.version < status.wanted:
        return Finding(
            "schema",
            seen,
            "It is made at first use; with create=False its owner runs migrate() once.",
        )
    return Finding("schema", seen)


def _relay(status: PostgresStatus) -> Iterator[Finding]:
    if status.relay_lacks:
        what = ", ".join(status.relay_lacks)
        yield Finding(
            "relay",
            f"this user cannot relay: {what} is lacking",
            "Only a worker with relay= needs it.",
        )
    if status.backlog is None:
        return
    outbox, retries = status.backlog.outbox, status.backlog.retries
    oldest = status.backlog.oldest
    seen = f"{outbox} row(s) in the outbox and {retries} retry(s) wait"
    if oldest is not None:
        seen += f", the oldest for {max(0.0, oldest):.0f} s"
    if status.relayed:
        yield Finding("backlog", f"{seen}; a relay is active")
    else:
        waits = bool(outbox or retries)
        yield Finding(
            "backlog",
            f"{seen}; no relay is active",
            "Start a worker with resilient(worker, relay=store)." if waits else None,
            bad=waits,
        )


def _clock(status: PostgresStatus) -> Finding:
    seen = f"the server's is {abs(status.ahead):.1f} s {'ahead' if status.ahead > 0 else 'behind'}"
    far = abs(status.ahead) > _CLOCKS
    return Finding(
        "clock", seen, "Leases go by the server's clock alone; set both right." if far else None
    )


def _latency(status: PostgresStatus, lease: float) -> Finding:
    seen = (
        f"an answer takes {status.round_trip * 1000:.1f} ms; a lease of {lease:g} s is renewed "
        f"every {lease / _RENEWED:g} s"
    )
    if status.round_trip > lease / _RENEWED:
        needed = 2 * _RENEWED * status.round_trip
        return Finding("latency", seen, f"Give idempotent() a lease of {needed:.3g} s.", bad=True)
    return Finding("latency", seen)

"""What the doctor asks of a PostgreSQL server: versions, privileges, clock, and its speed.

Writes nothing. Knows nothing of how findings are shown.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Final

import attrs

from iii_resilience.stores import postgres_statements as sql
from iii_resilience.stores.postgres_connections import (
    as_store_errors,
    connect,
    import_psycopg,
    refuse_transaction_pooling,
)
from iii_resilience.stores.postgres_schema import (
    NEEDED,
    NEEDED_BY_RELAY,
    VERSION,
    PostgresSchema,
)
from iii_resilience.stores.relaying import Backlog

_TRIPS: Final = 9
_WITH_OUTBOX: Final = 2  # the version of the schema


@attrs.frozen
class PostgresStatus:
    """How a server stands.

    Attributes:
        server: The server's version.
        schema: The name of the store's schema.
        version: The schema's version; 0 where there is none.
        wanted: The version that this library makes.
        oldest: The oldest version whose library works on it.
        lacking: The privileges that the user lacks.
        relay_lacks: The privileges that it lacks to relay: only a worker with a relay needs them.
        backlog: What waits for a relay; None where that cannot be seen.
        relayed: Whether a relay is active.
        ahead: How far the server's clock is ahead of this machine's, in seconds.
        round_trip: How long an answer takes, in seconds: the median of some.
    """

    server: str
    schema: str
    version: int
    wanted: int
    oldest: int
    lacking: tuple[str, ...]
    relay_lacks: tuple[str, ...]
    backlog: Backlog | None
    relayed: bool
    ahead: float
    round_trip: float


def postgres_status(
    dsn: str, *, schema: str = "iii_resilience", timeout: float = 5.0
) -> PostgresStatus:
    """Look at a server, as a store would use it.

    Args:
        dsn: As `PostgresStore` takes it.
        schema: The store's schema.
        timeout: Seconds for a connection, and for each answer.

    Raises:
        ImportError: The extra is not installed.
        StoreUnavailableError: It cannot be reached.
        StoreRefusedError: It refuses this user, or a pooler stands before it that is none for this.
    """
    import_psycopg()
    place = PostgresSchema(schema)
    connection = connect(dsn, timeout)
    try:
        with as_store_errors():
            refuse_transaction_pooling(connection, dsn, timeout)
            version, oldest = place.found(connection)
            lacking = tuple(place.lacking(connection, NEEDED)) if version else ()
            relay_lacks: tuple[str, ...] = ()
            backlog, relayed = None, False
            if version >= _WITH_OUTBOX:
                relay_lacks = tuple(place.lacking(connection, NEEDED_BY_RELAY))
                lock = {"lock": place.relay_lock}
                (relayed,) = connection.execute(sql.RELAYED, lock).fetchone()
                if "SELECT on outbox" not in relay_lacks and "SELECT on messages" not in lacking:
                    row = connection.execute(place.statement(sql.BACKLOG)).fetchone()
                    backlog = Backlog(*row)
            (server,) = connection.execute("SHOW server_version").fetchone()
            trips = [_trip(connection) for _ in range(_TRIPS)]
    finally:
        connection.close()
    return PostgresStatus(
        server=server,
        schema=schema,
        version=version,
        wanted=VERSION,
        oldest=oldest,
        lacking=lacking,
        relay_lacks=relay_lacks,
        backlog=backlog,
        relayed=relayed,
        ahead=statistics.median(ahead for _, ahead in trips),
        round_trip=statistics.median(took for took, _ in trips),
    )


def _trip(connection: Any) -> tuple[float, float]:
    """How long one answer took, and how far the server's clock was ahead in the middle of it."""
    sent, began = time.time(), time.monotonic()
    query = "SELECT extract(epoch FROM clock_timestamp())::float8"
    (now,) = connection.execute(query).fetchone()
    took = time.monotonic() - began
    return took, now - (sent + took / 2)

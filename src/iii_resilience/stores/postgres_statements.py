"""The operations of a store as SQL statements: one statement each, atomic, by the server's clock.

They do the same as `stores.transitions`; one contract test covers both. ``{schema}`` is the store's
schema; all else are parameters. Knows nothing of connections.

A key that runs in a transaction has a `lock`: the number of an advisory lock that the session of
its handler holds. Held, the key runs; free, its worker has gone, and the key may be claimed at
once. To find out, a claim takes that lock for the length of its own statement.
"""

# ruff: noqa: S608 - what is put into the statements is written here

from __future__ import annotations

from typing import Final

_LEASE: Final = "clock_timestamp() + make_interval(secs => %(lease)s)"
_LEASE_AND_KEEP: Final = "clock_timestamp() + make_interval(secs => %(lease)s + %(keep)s)"
_KEEP: Final = "clock_timestamp() + make_interval(secs => %(keep)s)"
# Only where something waits: a notification makes commits wait for one another.
_NOTIFY: Final = "CASE WHEN k.waited THEN pg_notify(%(channel)s, k.slot) END"

# Keys.

CLAIM: Final = f"""
INSERT INTO {{schema}}.keys AS k
    (slot, state, fingerprint, nonce, token, lease_until, keep_until)
VALUES (%(slot)s, 'running', %(fingerprint)s, %(nonce)s,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, {_LEASE}, {_LEASE_AND_KEEP})
ON CONFLICT (slot) DO UPDATE SET
    state = 'running', fingerprint = excluded.fingerprint, nonce = excluded.nonce,
    token = greatest(excluded.token, k.token + 1),
    lease_until = {_LEASE}, keep_until = {_LEASE_AND_KEEP},
    lock = NULL, waited = false, outcome = NULL
WHERE CASE
    WHEN k.state = 'running' AND k.lock IS NOT NULL THEN
        k.fingerprint = excluded.fingerprint AND pg_try_advisory_xact_lock(k.lock)
    WHEN k.keep_until <= clock_timestamp() THEN true
    ELSE k.state = 'running' AND k.fingerprint = excluded.fingerprint
        AND k.lease_until <= clock_timestamp()
END
RETURNING token
"""

LOOK: Final = """
SELECT state, fingerprint, nonce, token,
    extract(epoch FROM lease_until - clock_timestamp())::float8, outcome, waited
FROM {schema}.keys WHERE slot = %(slot)s
"""

WAIT: Final = """
UPDATE {schema}.keys SET waited = true
WHERE slot = %(slot)s AND token = %(token)s AND state = 'running' AND NOT waited
"""

RENEW: Final = """
UPDATE {schema}.keys AS k SET
    lease_until = clock_timestamp() + make_interval(secs => r.lease),
    keep_until = clock_timestamp() + make_interval(secs => r.lease + r.keep)
FROM unnest(%(slots)s::text[], %(tokens)s::bigint[], %(leases)s::float8[], %(keeps)s::float8[])
    AS r (slot, token, lease, keep)
WHERE k.slot = r.slot AND k.token = r.token AND k.state = 'running'
RETURNING k.slot
"""

# The same end once more is the answer to one whose first answer was lost.
FINISH: Final = f"""
UPDATE {{schema}}.keys AS k SET
    state = %(state)s, outcome = %(outcome)s, keep_until = {_KEEP}, lock = NULL
WHERE slot = %(slot)s AND token = %(token)s AND state IN ('running', %(state)s)
RETURNING {_NOTIFY}
"""

RELEASE: Final = f"""
DELETE FROM {{schema}}.keys AS k
WHERE slot = %(slot)s AND token = %(token)s AND state = 'running'
RETURNING {_NOTIFY}
"""

FORGET_FAILURE: Final = """
DELETE FROM {schema}.keys
WHERE slot = %(slot)s AND state = 'failed' AND keep_until > clock_timestamp()
RETURNING true
"""

# The transaction of a handler.

# What is left of the lease is how long one statement of the handler may take.
BEGIN: Final = """
UPDATE {schema}.keys SET lock = %(lock)s
WHERE slot = %(slot)s AND token = %(token)s AND state = 'running'
    AND pg_try_advisory_lock(%(lock)s)
RETURNING ceil(extract(epoch FROM lease_until - clock_timestamp()) * 1000)::bigint
"""

# A setting of this one transaction: after its end it is not there.
IS_OURS: Final = "SELECT current_setting('iii_resilience.transaction', true)"

# Messages. A row whose time is over is one that is not there.

_OVER: Final = "m.keep_until <= clock_timestamp()"

DELIVERED: Final = f"""
INSERT INTO {{schema}}.messages AS m (id, deliveries, keep_until)
VALUES (%(id)s, 1, {_KEEP})
ON CONFLICT (id) DO UPDATE SET
    deliveries = CASE WHEN {_OVER} THEN 1 ELSE m.deliveries + 1 END,
    note = CASE WHEN {_OVER} THEN NULL ELSE m.note END,
    first_failed_at = CASE WHEN {_OVER} THEN NULL ELSE m.first_failed_at END,
    last_failed_at = CASE WHEN {_OVER} THEN NULL ELSE m.last_failed_at END,
    revision = CASE WHEN {_OVER} THEN 0 ELSE m.revision END,
    keep_until = CASE WHEN m.parked_at IS NULL THEN excluded.keep_until END
RETURNING deliveries
"""

UNDELIVERED: Final = f"""
UPDATE {{schema}}.messages AS m SET deliveries = deliveries - 1,
    keep_until = CASE WHEN parked_at IS NULL THEN {_KEEP} END
WHERE id = %(id)s AND deliveries > 0 AND (keep_until IS NULL OR NOT {_OVER})
"""

EMPTY: Final = """
DELETE FROM {schema}.messages
WHERE id = %(id)s AND deliveries = 0 AND note IS NULL AND parked_at IS NULL AND revision = 0
"""

NOTE: Final = f"""
INSERT INTO {{schema}}.messages AS m
    (id, deliveries, note, first_failed_at, last_failed_at, parked_at, revision, keep_until)
VALUES (%(id)s, 0, %(note)s, clock_timestamp(), clock_timestamp(),
    CASE WHEN %(parked)s THEN clock_timestamp() END, %(parked)s::int,
    CASE WHEN NOT %(parked)s THEN {_KEEP} END)
ON CONFLICT (id) DO UPDATE SET
    deliveries = CASE WHEN {_OVER} THEN 0 ELSE m.deliveries END,
    note = excluded.note,
    first_failed_at = CASE WHEN {_OVER} THEN excluded.first_failed_at
        ELSE coalesce(m.first_failed_at, excluded.first_failed_at) END,
    last_failed_at = excluded.last_failed_at,
    parked_at = coalesce(excluded.parked_at, m.parked_at),
    revision = CASE WHEN {_OVER} THEN 0 ELSE m.revision END + excluded.revision,
    keep_until = CASE WHEN coalesce(excluded.parked_at, m.parked_at) IS NULL
        THEN excluded.keep_until END
"""

SETTLE: Final = "DELETE FROM {schema}.messages WHERE id = %(id)s"

RECORDS: Final = """
SELECT id, deliveries, note, extract(epoch FROM first_failed_at)::float8,
    extract(epoch FROM last_failed_at)::float8, extract(epoch FROM parked_at)::float8, revision
FROM {schema}.messages
WHERE id > %(after)s AND (keep_until IS NULL OR keep_until > clock_timestamp())
ORDER BY id LIMIT %(page)s
"""

PREPARE: Final = """
UPDATE {schema}.messages SET deliveries = 0, revision = revision + 1
WHERE id = %(id)s AND revision = %(revision)s AND parked_at IS NOT NULL
RETURNING revision
"""

REMOVE: Final = """
DELETE FROM {schema}.messages
WHERE id = %(id)s AND revision = %(revision)s
    AND (keep_until IS NULL OR keep_until > clock_timestamp())
RETURNING true
"""

# Rows whose time is over, a few at once; of those that another process removes now, none.

SWEEP_KEYS: Final = """
DELETE FROM {schema}.keys WHERE slot IN (
    SELECT slot FROM {schema}.keys
    WHERE keep_until <= clock_timestamp()
        AND CASE WHEN lock IS NULL THEN true ELSE pg_try_advisory_xact_lock(lock) END
    ORDER BY keep_until LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
"""

SWEEP_MESSAGES: Final = """
DELETE FROM {schema}.messages WHERE id IN (
    SELECT id FROM {schema}.messages WHERE keep_until <= clock_timestamp()
    ORDER BY keep_until LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
"""

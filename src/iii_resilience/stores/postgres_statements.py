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

_COUNT: Final = f"""
INSERT INTO {{schema}}.messages AS m (id, deliveries, keep_until)
VALUES (%(id)s, 1, {_KEEP})
ON CONFLICT (id) DO UPDATE SET
    deliveries = CASE WHEN {_OVER} THEN 1 ELSE m.deliveries + 1 END,
    note = CASE WHEN {_OVER} THEN NULL ELSE m.note END,
    first_failed_at = CASE WHEN {_OVER} THEN NULL ELSE m.first_failed_at END,
    last_failed_at = CASE WHEN {_OVER} THEN NULL ELSE m.last_failed_at END,
    revision = CASE WHEN {_OVER} THEN 0 ELSE m.revision END,
    keep_until = CASE WHEN m.parked_at IS NULL AND m.due_at IS NULL THEN excluded.keep_until END
"""
DELIVERED: Final = f"{_COUNT} RETURNING deliveries"

_WAITS: Final = "m.due_at IS NOT NULL AND m.parked_at IS NULL"

# Of a message that waits no row is returned.
ARRIVED: Final = f"{_COUNT} WHERE NOT ({_WAITS} AND NOT m.handing) RETURNING deliveries"

UNDELIVERED: Final = f"""
UPDATE {{schema}}.messages AS m SET deliveries = deliveries - 1,
    keep_until = CASE WHEN parked_at IS NULL AND due_at IS NULL THEN {_KEEP} END
WHERE id = %(id)s AND deliveries > 0 AND (keep_until IS NULL OR NOT {_OVER})
"""

EMPTY: Final = """
DELETE FROM {schema}.messages
WHERE id = %(id)s AND deliveries = 0 AND note IS NULL AND parked_at IS NULL AND revision = 0
"""

# A row whose time is over counts anew.
_FAILED_AGAIN: Final = f"""ON CONFLICT (id) DO UPDATE SET
    deliveries = CASE WHEN {_OVER} THEN 0 ELSE m.deliveries END,
    note = excluded.note,
    first_failed_at = CASE WHEN {_OVER} THEN excluded.first_failed_at
        ELSE coalesce(m.first_failed_at, excluded.first_failed_at) END,
    last_failed_at = excluded.last_failed_at,
"""

NOTE: Final = f"""
INSERT INTO {{schema}}.messages AS m
    (id, deliveries, note, first_failed_at, last_failed_at, parked_at, revision, keep_until)
VALUES (%(id)s, 0, %(note)s, clock_timestamp(), clock_timestamp(),
    CASE WHEN %(parked)s THEN clock_timestamp() END, %(parked)s::int,
    CASE WHEN NOT %(parked)s THEN {_KEEP} END)
{_FAILED_AGAIN}    parked_at = coalesce(excluded.parked_at, m.parked_at),
    revision = CASE WHEN {_OVER} THEN 0 ELSE m.revision END + excluded.revision,
    due_at = CASE WHEN excluded.parked_at IS NULL THEN m.due_at END,
    handing = m.handing AND excluded.parked_at IS NULL,
    keep_until = CASE WHEN coalesce(excluded.parked_at, m.parked_at, m.due_at) IS NULL
        THEN excluded.keep_until END
"""

SETTLE: Final = "DELETE FROM {schema}.messages WHERE id = %(id)s"

_RECORD: Final = """
SELECT id, deliveries, note, extract(epoch FROM first_failed_at)::float8,
    extract(epoch FROM last_failed_at)::float8, extract(epoch FROM parked_at)::float8, revision,
    extract(epoch FROM due_at)::float8
"""
RECORDS: Final = f"""{_RECORD}
FROM {{schema}}.messages
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

# Messages that wait to be tried again.

POSTPONE: Final = f"""
INSERT INTO {{schema}}.messages AS m
    (id, deliveries, note, first_failed_at, last_failed_at, revision, due_at)
VALUES (%(id)s, 0, %(note)s, clock_timestamp(), clock_timestamp(), 1,
    clock_timestamp() + make_interval(secs => %(seconds)s))
{_FAILED_AGAIN}    parked_at = NULL,
    revision = CASE WHEN {_OVER} THEN 0 ELSE m.revision END + 1,
    due_at = excluded.due_at, handing = false, keep_until = NULL
"""

DUE: Final = f"""{_RECORD}
FROM {{schema}}.messages AS m
WHERE {_WAITS} AND due_at <= clock_timestamp()
    AND (note::json ->> 'queue') <> ALL(%(without)s)
ORDER BY due_at LIMIT %(most)s
"""

NEXT_DUE: Final = f"""
SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8
FROM {{schema}}.messages AS m WHERE {_WAITS} AND due_at > clock_timestamp()
"""

TAKE: Final = f"""
UPDATE {{schema}}.messages AS m SET handing = true, revision = revision + 1
WHERE id = %(id)s AND revision = %(revision)s AND {_WAITS}
RETURNING revision
"""

SENT: Final = f"""
UPDATE {{schema}}.messages AS m SET due_at = NULL, handing = false, keep_until = {_KEEP}
WHERE id = %(id)s AND revision = %(revision)s AND {_WAITS}
RETURNING true
"""

# The outbox.

# A commit that does not wait for the disk is seen, and then a killed server forgets it: the relay
# would have sent a message of what never was. So this transaction waits.
# A relay that is busy looks again anyway: a notification makes commits wait for one another.
ENQUEUE: Final = """
WITH made AS (
    INSERT INTO {schema}.outbox (queue, function_id, data, key)
    SELECT %(queue)s, %(function_id)s, %(data)s, %(key)s
    WHERE current_setting('synchronous_commit') <> 'off'
        OR set_config('synchronous_commit', 'on', true) = 'on'
)
SELECT pg_notify({channel}, 'outbox') FROM {schema}.relay WHERE idle
"""

OUTBOX: Final = """
SELECT id, queue, function_id, data, key FROM {schema}.outbox
WHERE queue <> ALL(%(without)s) ORDER BY id LIMIT %(most)s
"""

# One that is lost with the server is handed over again: nothing waits for the disk here.
HANDED_OVER: Final = """
WITH quick AS (SELECT set_config('synchronous_commit', 'off', true))
DELETE FROM {schema}.outbox USING quick WHERE id = %(row)s
"""

BACKLOG: Final = f"""
SELECT (SELECT count(*) FROM {{schema}}.outbox),
    (SELECT count(*) FROM {{schema}}.messages AS m WHERE {_WAITS}),
    extract(epoch FROM clock_timestamp() - least(
        (SELECT enqueued_at FROM {{schema}}.outbox ORDER BY id LIMIT 1),
        (SELECT min(due_at) FROM {{schema}}.messages AS m
            WHERE {_WAITS} AND due_at <= clock_timestamp())
    ))::float8
"""

# The session of the active relay holds an advisory lock.
RELAY_LOCK: Final = "SELECT pg_try_advisory_lock(%(lock)s)"

RELAYED: Final = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) | objid::bigint = %(lock)s
)
"""

IDLE: Final = "UPDATE {schema}.relay SET idle = %(idle)s WHERE idle <> %(idle)s"

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

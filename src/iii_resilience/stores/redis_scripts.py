"""The operations of a store as Redis scripts: one script per operation, each atomic.

They are the same as those of `stores.transitions`; one contract test covers both. The time is the
server's, because the clocks of several machines differ.

Each script tests first and then writes. What begins something begins its writes with a command that
a full server refuses (``maxmemory`` with ``noeviction``): nothing may run whose end could not be
kept. What ends something begins with one that is allowed: Redis lets a script go on that has
written (redis.io, "Eval scripts", out-of-memory policy). A key that runs could be claimed again
if its end, or its renewal, were refused.

The client sends a request again when its answer is late, and the server may then run it twice,
minutes apart. Where that would count, the request's own key holds the answer of the first run.
"""

from __future__ import annotations

from typing import Final

_NOW: Final = """
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local function whole(number) return string.format('%.0f', number) end
"""

# KEYS, in all of these: the request's key is the last one.
_ONCE: Final = """
local request = KEYS[#KEYS]
local earlier = redis.call('GET', request)
if earlier then return tonumber(earlier) end
local function answered(answer)
    redis.call('SET', request, tostring(answer), 'PX', 60000)
    return answer
end
"""

# KEYS: the key's row.

CLAIM: Final = (
    _NOW
    + """
local fingerprint, nonce = ARGV[1], ARGV[2]
local lease, keep = tonumber(ARGV[3]), tonumber(ARGV[4])
local row = redis.call('HMGET', KEYS[1],
    'state', 'fingerprint', 'token', 'until', 'nonce', 'outcome')
local state = row[1]
if state then
    if row[2] ~= fingerprint then return {'other', '0', '0', ''} end
    if state ~= 'running' then return {state, row[3], '0', row[6]} end
    local left = row[4] - now
    if left > 0 then
        if row[5] == nonce then return {'claimed', row[3], '0', ''} end
        return {'running', row[3], whole(left), ''}
    end
end
local token = micros
if row[3] and tonumber(row[3]) >= token then token = row[3] + 1 end
redis.call('HSET', KEYS[1], 'state', 'running', 'fingerprint', fingerprint, 'nonce', nonce,
    'token', whole(token), 'until', whole(now + lease))
redis.call('HDEL', KEYS[1], 'outcome')
redis.call('PEXPIRE', KEYS[1], whole(lease + keep))
return {'claimed', whole(token), '0', ''}
"""
)

RENEW: Final = (
    _NOW
    + """
local row = redis.call('HMGET', KEYS[1], 'state', 'token')
if row[1] ~= 'running' or row[2] ~= ARGV[1] then return 0 end
local lease, keep = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('PEXPIRE', KEYS[1], whole(lease + keep))
redis.call('HSET', KEYS[1], 'until', whole(now + lease))
return 1
"""
)

FINISH: Final = """
local token, state, outcome, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local row = redis.call('HMGET', KEYS[1], 'state', 'token')
if row[2] ~= token then return 0 end
if row[1] == state then return 1 end
if row[1] ~= 'running' then return 0 end
redis.call('PEXPIRE', KEYS[1], keep)
redis.call('HSET', KEYS[1], 'state', state, 'outcome', outcome)
return 1
"""

RELEASE: Final = (
    _ONCE
    + """
local row = redis.call('HMGET', KEYS[1], 'state', 'token')
if row[1] ~= 'running' or row[2] ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return answered(1)
"""
)

FORGET_FAILURE: Final = (
    _ONCE
    + """
if redis.call('HGET', KEYS[1], 'state') ~= 'failed' then return 0 end
redis.call('DEL', KEYS[1])
return answered(1)
"""
)

# KEYS: the message's row; the set of all messages with the time at which they may go; and the set
# of those that wait to be tried again, with the time at which they are due.

_COUNT: Final = """
local id, keep = ARGV[1], tonumber(ARGV[2])
local count = redis.call('HINCRBY', KEYS[1], 'deliveries', 1)
local row = redis.call('HMGET', KEYS[1], 'parked_at', 'due_at')
if not row[1] and not row[2] then
    redis.call('ZADD', KEYS[2], whole(now + keep), id)
    redis.call('PEXPIRE', KEYS[1], whole(keep))
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', whole(now))
return answered(count)
"""
DELIVERED: Final = _NOW + _ONCE + _COUNT

ARRIVED: Final = (
    _NOW
    + _ONCE
    + """
local was = redis.call('HMGET', KEYS[1], 'due_at', 'handing', 'parked_at')
if was[1] and not was[2] and not was[3] then return 0 end
"""
    + _COUNT
)

UNDELIVERED: Final = (
    _NOW
    + _ONCE
    + """
local id, keep = ARGV[1], tonumber(ARGV[2])
local row = redis.call('HMGET', KEYS[1], 'deliveries', 'note', 'parked_at', 'due_at')
local count = tonumber(row[1] or '0')
if count < 1 then return 0 end
if count == 1 and not row[2] then
    redis.call('ZREM', KEYS[2], id)
    redis.call('DEL', KEYS[1])
    return answered(1)
end
if row[3] or row[4] then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('PEXPIRE', KEYS[1], whole(keep))
    redis.call('ZADD', KEYS[2], whole(now + keep), id)
end
redis.call('HSET', KEYS[1], 'deliveries', whole(count - 1))
return answered(1)
"""
)

NOTE: Final = (
    _NOW
    + _ONCE
    + """
local id, note, parked, keep = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
redis.call('HSET', KEYS[1], 'note', note, 'last_failed_at', whole(now))
redis.call('HSETNX', KEYS[1], 'first_failed_at', whole(now))
if parked == '1' then
    redis.call('HSET', KEYS[1], 'parked_at', whole(now))
    redis.call('HINCRBY', KEYS[1], 'revision', 1)
    redis.call('HDEL', KEYS[1], 'due_at', 'handing')
    redis.call('ZREM', KEYS[3], id)
end
local row = redis.call('HMGET', KEYS[1], 'parked_at', 'due_at')
if row[1] or row[2] then
    redis.call('PERSIST', KEYS[1])
    redis.call('ZADD', KEYS[2], '+inf', id)
else
    redis.call('PEXPIRE', KEYS[1], whole(keep))
    redis.call('ZADD', KEYS[2], whole(now + keep), id)
end
return answered(1)
"""
)

SETTLE: Final = (
    _ONCE
    + """
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[1])
return answered(1)
"""
)

PREPARE: Final = (
    _ONCE
    + """
local row = redis.call('HMGET', KEYS[1], 'parked_at', 'revision')
if not row[1] or row[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'deliveries', '0')
return answered(redis.call('HINCRBY', KEYS[1], 'revision', 1))
"""
)

REMOVE: Final = (
    _ONCE
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if (redis.call('HGET', KEYS[1], 'revision') or '0') ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[1])
return answered(1)
"""
)

# Messages that wait to be tried again.

POSTPONE: Final = (
    _NOW
    + _ONCE
    + """
local id, note, due = ARGV[1], ARGV[2], whole(now + tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'note', note, 'last_failed_at', whole(now), 'due_at', due)
redis.call('HSETNX', KEYS[1], 'first_failed_at', whole(now))
redis.call('HINCRBY', KEYS[1], 'revision', 1)
redis.call('HDEL', KEYS[1], 'parked_at', 'handing')
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[2], '+inf', id)
redis.call('ZADD', KEYS[3], due, id)
return answered(1)
"""
)

TAKE: Final = (
    _ONCE
    + """
local row = redis.call('HMGET', KEYS[1], 'due_at', 'parked_at', 'revision')
if not row[1] or row[2] or row[3] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'handing', '1')
return answered(redis.call('HINCRBY', KEYS[1], 'revision', 1))
"""
)

SENT: Final = (
    _NOW
    + _ONCE
    + """
local id, keep = ARGV[1], tonumber(ARGV[3])
local row = redis.call('HMGET', KEYS[1], 'due_at', 'parked_at', 'revision')
if not row[1] or row[2] or row[3] ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], 'due_at', 'handing')
redis.call('ZREM', KEYS[3], id)
redis.call('PEXPIRE', KEYS[1], whole(keep))
redis.call('ZADD', KEYS[2], whole(now + keep), id)
return answered(1)
"""
)

# One that an earlier version has settled or parked does not wait.
FORGET_DUE: Final = """
local row = redis.call('HMGET', KEYS[1], 'due_at', 'parked_at')
if not row[1] or row[2] then redis.call('ZREM', KEYS[3], ARGV[1]) end
return 0
"""

SCRIPTS: Final = {
    "claim": CLAIM,
    "renew": RENEW,
    "finish": FINISH,
    "release": RELEASE,
    "forget_failure": FORGET_FAILURE,
    "delivered": DELIVERED,
    "undelivered": UNDELIVERED,
    "note": NOTE,
    "settle": SETTLE,
    "prepare": PREPARE,
    "remove": REMOVE,
    "arrived": ARRIVED,
    "postpone": POSTPONE,
    "take": TAKE,
    "sent": SENT,
    "forget_due": FORGET_DUE,
}

"""`RedisStore`: for processes on several machines.

Needs the extra ``redis``, which is imported when a store is made. The guarantees are the server's:
with ``appendonly yes`` and ``appendfsync always`` no confirmed write is lost; a server that evicts
keys, or a replica that lags, loses keys that have run. Knows nothing of what it stores.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from iii_resilience.core.error_translation import ErrorTranslation
from iii_resilience.stores import redis_scripts
from iii_resilience.stores.protocol import (
    Claim,
    Record,
    Renewal,
    State,
    StoreRefusedError,
    StoreUnavailableError,
)
from iii_resilience.stores.relaying import RELAY_SLOT, Backlog, LeaseLock, OutboxRow

_PAGE = 200
_COMMITS_TRIED = 5
_WORDS = 200  # characters of an answer that are looked at
# How answers begin that the same request may not get a moment later (redis.io, "Redis
# serialization protocol specification", simple errors, and the server's own error messages).
_PASSES = (
    "OOM",
    "LOADING",
    "BUSY",
    "READONLY",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MISCONF",
    "EXECABORT",
    "NOSCRIPT",
    "max number of clients",
)


class RedisStore:
    """Idempotency keys and parked messages in Redis 5 or later.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it.
        prefix: Begins the name of every key.
        timeout: Seconds for a connection, and for an answer.

    Raises:
        ImportError: The extra is not installed.
        ValueError: A URL that redis-py does not take.
    """

    blocking = True
    transactions = True

    def __init__(self, url: str, *, prefix: str = "iii-resilience", timeout: float = 5.0) -> None:
        try:
            import redis  # noqa: PLC0415 - an extra
            from redis import exceptions as redis_exceptions  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415
            from redis.retry import Retry  # noqa: PLC0415
        except ImportError:
            raise ImportError(
                "a RedisStore needs redis-py: pip install 'iii-resilience[redis]'"
            ) from None
        self._prefix = prefix
        self._waiting = f"{prefix}:waiting"
        self._redis: Any = redis
        # Where redis-py has a class for an answer it drops the answer's first word.
        self._transient = tuple(
            getattr(redis_exceptions, name)
            for name in ("OutOfMemoryError", "BusyLoadingError", "ReadOnlyError", "ExecAbortError")
            if hasattr(redis_exceptions, name)
        )
        # One more try, at once: a connection that was idle while the server restarted is dead.
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
            )
        except ValueError:  # its message may hold a part of the password
            raise ValueError(
                "RedisStore: the URL is none that redis-py takes; write redis://user@host:6379/0, "
                "and in a password %23 for #, %2F for / and %3F for ?"
            ) from None
        self._scripts: dict[str, Any] = {
            name: self._client.register_script(text) for name, text in redis_scripts.SCRIPTS.items()
        }

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._client.close()

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._prefix!r})"  # the URL may hold a password

    # Keys.

    def claim(self, slot: str, *, fingerprint: str, nonce: str, lease: float, keep: float) -> Claim:
        """See `Keys.claim`."""
        arguments = (fingerprint, nonce, _ms(lease), _ms(keep))
        state, token, left, outcome = self._run("claim", self._key(slot), arguments)
        found = State(state)
        stored = found in {State.DONE, State.FAILED}
        return Claim(found, int(token), int(left) / 1000, outcome if stored else None)

    def renew(self, slot: str, token: int, *, lease: float, keep: float) -> bool:
        """See `Keys.renew`."""
        return bool(self._run("renew", self._key(slot), (token, _ms(lease), _ms(keep))))

    def renew_many(self, renewals: Sequence[Renewal]) -> list[bool]:
        """See `RenewsMany.renew_many`; they are one round trip."""
        if not renewals:
            return []
        with self._as_unavailable():
            pipeline = self._client.pipeline(transaction=False)
            for one in renewals:
                self._scripts["renew"](
                    keys=self._key(one.slot),
                    args=(one.token, _ms(one.lease), _ms(one.keep)),
                    client=pipeline,
                )
            return [bool(answer) for answer in pipeline.execute()]

    def finish(
        self, slot: str, token: int, outcome: str, *, failed: bool = False, keep: float
    ) -> bool:
        """See `Keys.finish`."""
        return bool(self._run("finish", self._key(slot), _finish(token, outcome, failed, keep)))

    def release(self, slot: str, token: int) -> bool:
        """See `Keys.release`."""
        return bool(self._once("release", self._key(slot), (token,)))

    def forget_failure(self, slot: str) -> bool:
        """See `Keys.forget_failure`."""
        return bool(self._once("forget_failure", self._key(slot), ()))

    def begin(self, slot: str, token: int) -> RedisTransaction:
        """Queue commands that are committed together with the key (see `Keys.begin`)."""
        return RedisTransaction(self, self._client.pipeline(transaction=True), slot, token)

    # Messages.

    def delivered(self, message: str, *, keep: float) -> int:
        """See `Messages.delivered`."""
        return int(self._once("delivered", self._message(message), (message, _ms(keep))))

    def undelivered(self, message: str, *, keep: float) -> None:
        """See `CountsBack.undelivered`."""
        self._once("undelivered", self._message(message), (message, _ms(keep)))

    def note(self, message: str, note: Mapping[str, Any], *, parked: bool, keep: float) -> None:
        """See `Messages.note`."""
        arguments = (message, json.dumps(dict(note)), int(parked), _ms(keep))
        self._once("note", self._message(message), arguments)

    def settle(self, message: str) -> None:
        """See `Messages.settle`."""
        self._once("settle", self._message(message), (message,))

    def records(self) -> Iterator[Record]:
        """See `Messages.records`."""
        with self._as_unavailable():
            ids = self._client.zrange(f"{self._prefix}:messages", 0, -1)
        for start in range(0, len(ids), _PAGE):
            for message, row in self._messages(ids[start : start + _PAGE]):
                if row:  # the others have gone by themselves
                    yield _record(message, row)

    def _messages(self, ids: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        with self._as_unavailable():
            pipeline = self._client.pipeline(transaction=False)
            for message in ids:
                pipeline.hgetall(self._message(message)[0])
            rows = pipeline.execute()
        return zip(ids, rows, strict=True)

    def prepare(self, message: str, revision: int) -> int | None:
        """See `Messages.prepare`."""
        return int(self._once("prepare", self._message(message), (message, revision))) or None

    def remove(self, message: str, revision: int) -> bool:
        """See `Messages.remove`."""
        return bool(self._once("remove", self._message(message), (message, revision)))

    # Retries that wait, and the relay.

    def arrived(self, message: str, *, keep: float) -> int:
        """See `Postpones.arrived`."""
        return int(self._once("arrived", self._message(message), (message, _ms(keep))))

    def postpone(self, message: str, note: Mapping[str, Any], *, seconds: float) -> None:
        """See `Postpones.postpone`."""
        arguments = (message, json.dumps(dict(note)), math.ceil(seconds * 1000))
        self._once("postpone", self._message(message), arguments)

    def due(self, *, without: Collection[str], most: int) -> tuple[Sequence[Record], float | None]:
        """See `RelayedStore.due`."""
        found: list[Record] = []
        now, start, page = self._now(), 0, [""]
        while page and len(found) < most:
            with self._as_unavailable():
                page = self._client.zrangebyscore(self._waiting, "-inf", now, start, _PAGE)
            start += len(page)
            for message, row in self._messages(page):
                if "due_at" not in row or "parked_at" in row:
                    self._run("forget_due", self._message(message), (message,))
                    start -= 1
                elif len(found) < most:
                    record = _record(message, row)
                    if record.note.get("queue") not in without:
                        found.append(record)
        with self._as_unavailable():
            following = self._client.zrangebyscore(
                self._waiting, f"({now}", "+inf", 0, 1, withscores=True
            )
        return found, (following[0][1] - now) / 1000 if following else None

    def take(self, message: str, revision: int) -> int | None:
        """See `RelayedStore.take`."""
        return int(self._once("take", self._message(message), (message, revision))) or None

    def sent(self, message: str, revision: int, *, keep: float) -> bool:
        """See `RelayedStore.sent`."""
        arguments = (message, revision, _ms(keep))
        return bool(self._once("sent", self._message(message), arguments))

    def relay_lock(self) -> LeaseLock:
        """See `RelayedStore.relay_lock`."""
        return LeaseLock(self)

    def relayed(self) -> bool:
        """See `RelayedStore.relayed`."""
        now = self._now()
        with self._as_unavailable():
            until = self._client.hget(self._key(RELAY_SLOT)[0], "until")
        return until is not None and int(until) > now

    def outbox(self, *, without: Collection[str], most: int) -> Sequence[OutboxRow]:  # noqa: ARG002
        """See `RelayedStore.outbox`: none here, for Redis undoes nothing."""
        return ()

    def handed_over(self, row: int) -> None:
        """See `RelayedStore.handed_over`."""

    def backlog(self) -> Backlog:
        """See `RelayedStore.backlog`."""
        now = self._now()
        with self._as_unavailable():
            count = self._client.zcard(self._waiting)
            first = self._client.zrange(self._waiting, 0, 0, withscores=True)
        oldest = (now - first[0][1]) / 1000 if first and first[0][1] <= now else None
        return Backlog(retries=count, oldest=oldest)

    def _now(self) -> int:
        """The server's time, in milliseconds since 1970."""
        with self._as_unavailable():
            seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    # How it is called.

    def _key(self, slot: str) -> list[str]:
        return [f"{self._prefix}:key:{slot}"]

    def _message(self, message: str) -> list[str]:
        return [f"{self._prefix}:message:{message}", f"{self._prefix}:messages", self._waiting]

    def _run(self, name: str, keys: list[str], arguments: tuple[Any, ...]) -> Any:
        with self._as_unavailable():
            return self._scripts[name](keys=keys, args=arguments)

    def _once(self, name: str, keys: list[str], arguments: tuple[Any, ...]) -> Any:
        """Run a script that counts once, though redis-py may send it twice."""
        return self._run(name, [*keys, f"{self._prefix}:request:{uuid.uuid4().hex}"], arguments)

    def _as_unavailable(self) -> ErrorTranslation:
        return ErrorTranslation(self._translate)

    def _translate(self, error: Exception) -> None:
        if isinstance(error, self._redis.DataError):
            return  # a value that redis-py cannot send: nothing is wrong with the store
        if isinstance(error, self._redis.RedisError):
            raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> StoreUnavailableError | StoreRefusedError:
        """What an error of redis-py says of the store."""
        # The class and the answer's first word say what is wrong; the rest may hold what was sent.
        said = type(error).__name__
        if not isinstance(error, self._redis.ResponseError):
            return StoreUnavailableError(f"the Redis store failed: {said}")
        text = str(error)
        first = text.split(" ", 1)[0]
        if first.isupper():
            said += f" ({first})"
        # A script's error names the one of the command inside (Redis 6 puts it behind its own).
        if isinstance(error, self._transient) or any(
            text.startswith(word) or f" {word} " in text[:_WORDS] for word in _PASSES
        ):
            return StoreUnavailableError(f"the Redis store failed: {said}")
        return StoreRefusedError(
            f"the Redis store refuses: {said}. It would again: look for keys of another type under "
            f"{self._prefix!r}, and at what this user may do (ACL)"
        )

    def commit(self, commands: Any, slot: str, token: int, outcome: str, keep: float) -> bool:
        """Run queued commands and finish a key, as one; False where the lease was lost."""
        (key,) = self._key(slot)
        finish = _finish(token, outcome, failed=False, keep=keep)
        for _ in range(_COMMITS_TRIED):
            with self._as_unavailable(), self._client.pipeline(transaction=True) as pipeline:
                pipeline.watch(key)
                state, owner = pipeline.hmget(key, "state", "token")
                if owner != str(token) or state == State.FAILED.value:
                    return False
                if state == State.DONE.value:
                    return True  # the answer to the first try was lost on its way
                pipeline.multi()
                pipeline.command_stack.extend(commands.command_stack)
                # Not by its hash: in a transaction it is too late to learn that it is unknown.
                pipeline.eval(redis_scripts.FINISH, 1, key, *finish)
                try:
                    results = pipeline.execute(raise_on_error=False)
                except self._redis.WatchError:
                    continue  # the lease was renewed in between, or the key was claimed
                except self._redis.ResponseError as error:
                    meaning = self._meaning(error)
                    if isinstance(meaning, StoreUnavailableError):
                        raise meaning from error
                    results = [error, 0]  # one of the commands; Redis has run none of them
            end = results[-1]
            if isinstance(end, Exception):
                raise self._meaning(end) from end
            refused = next((one for one in results[:-1] if isinstance(one, Exception)), None)
            if refused is not None:
                raise refused
            return bool(end)
        raise StoreUnavailableError("the Redis store failed: its row changed again and again")


class RedisTransaction:
    """Commands that Redis runs together with the end of a key, or not at all."""

    def __init__(self, store: RedisStore, pipeline: Any, slot: str, token: int) -> None:
        self._store = store
        self._pipeline = pipeline
        self._slot = slot
        self._token = token
        # Run by the handler, the effect would stand without its key.
        pipeline.execute = pipeline.watch = _not_yours
        pipeline.reset = _keep_the_commands  # at the end of a with statement

    exclusive = False

    @property
    def handle(self) -> Any:
        """A redis-py pipeline: commands are queued, and none is run before the handler's end."""
        return self._pipeline

    def commit(self, outcome: str, *, keep: float) -> bool:
        """See `Transaction.commit`.

        Raises:
            StoreUnavailableError: Redis cannot be reached, or is full. Whether it has committed is
                not known, but it is both or neither.
            StoreRefusedError: Redis refuses the end of the key, and would again.
            redis.exceptions.ResponseError: Redis refused one of the commands (a key of another
                type). It does not undo the others: the key has run.
        """
        return self._store.commit(self._pipeline, self._slot, self._token, outcome, keep)

    def rollback(self) -> None:
        """See `Transaction.rollback`."""
        self._pipeline.command_stack.clear()


def _not_yours(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "the commands of a handler's transaction run together with its key, when it has ended"
    )


def _keep_the_commands() -> None:
    pass


def _finish(token: int, outcome: str, failed: bool, keep: float) -> tuple[Any, ...]:
    return token, (State.FAILED if failed else State.DONE).value, outcome, _ms(keep)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _record(message: str, row: Mapping[str, str]) -> Record:
    def seconds(name: str) -> float | None:
        return int(row[name]) / 1000 if name in row else None

    return Record(
        id=message,
        deliveries=int(row.get("deliveries", 0)),
        note=json.loads(row.get("note", "{}")),
        first_failed_at=seconds("first_failed_at"),
        last_failed_at=seconds("last_failed_at"),
        parked_at=seconds("parked_at"),
        revision=int(row.get("revision", 0)),
        due_at=seconds("due_at"),
    )

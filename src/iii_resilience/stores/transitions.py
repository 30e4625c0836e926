"""The transitions of one row, for stores that are written in Python.

They are pure functions of a row and the time. `stores.redis_scripts` does the same for Redis; one
contract test covers both. Knows nothing of where rows are or how they are locked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeGuard, TypeVar

import attrs

from iii_resilience.stores.protocol import Claim, Record, State

T = TypeVar("T")
Row = dict[str, Any]


@attrs.frozen
class Change(Generic[T]):
    """What becomes of a row.

    Attributes:
        row: The new row; None for none.
        answer: What is returned to the caller.
        keep_until: When the row may go, in seconds since 1970; None for never.
        written: Whether anything has changed.
    """

    row: Row | None = attrs.field(repr=False)
    answer: T = attrs.field(repr=False)
    keep_until: float | None = None
    written: bool = True


Rule = Callable[[Row | None, float], Change[T]]


def claim(fingerprint: str, nonce: str, lease: float, keep: float) -> Rule[Claim]:
    """See `Keys.claim`."""

    def rule(row: Row | None, now: float) -> Change[Claim]:
        if row is not None:
            if row["fingerprint"] != fingerprint:
                return Change(row, Claim(State.OTHER), written=False)
            state, token = State(row["state"]), row["token"]
            if state is not State.RUNNING:
                return Change(row, Claim(state, token, outcome=row["outcome"]), written=False)
            left = row["until"] - now
            if left > 0:
                if row["nonce"] == nonce:  # the answer to this very claim was lost on its way
                    return Change(row, Claim(State.CLAIMED, token), written=False)
                return Change(row, Claim(State.RUNNING, token, left=left), written=False)
        # Greater than every earlier one, that of a row which has gone since included.
        token = max(int(now * 1_000_000), 0 if row is None else row["token"] + 1)
        new = {
            "state": State.RUNNING.value,
            "fingerprint": fingerprint,
            "nonce": nonce,
            "token": token,
            "until": now + lease,
            "outcome": None,
        }
        return Change(new, Claim(State.CLAIMED, token), now + lease + keep)

    return rule


def renew(token: int, lease: float, keep: float) -> Rule[bool]:
    """See `Keys.renew`."""

    def rule(row: Row | None, now: float) -> Change[bool]:
        if not _mine(row, token):
            return Change(row, answer=False, written=False)
        return Change({**row, "until": now + lease}, answer=True, keep_until=now + lease + keep)

    return rule


def finish(token: int, outcome: str, keep: float, *, failed: bool) -> Rule[bool]:
    """See `Keys.finish`."""
    state = State.FAILED if failed else State.DONE

    def rule(row: Row | None, now: float) -> Change[bool]:
        if not _mine(row, token):
            # The answer to this very operation may have been lost on its way.
            same = row is not None and row["token"] == token and row["state"] == state.value
            return Change(row, answer=same, written=False)
        new = {**row, "state": state.value, "outcome": outcome}
        return Change(new, answer=True, keep_until=now + keep)

    return rule


def release(token: int) -> Rule[bool]:
    """See `Keys.release`."""

    def rule(row: Row | None, _: float) -> Change[bool]:
        if not _mine(row, token):
            return Change(row, answer=False, written=False)
        return Change(None, answer=True)

    return rule


def forget_failure() -> Rule[bool]:
    """See `Keys.forget_failure`."""

    def rule(row: Row | None, _: float) -> Change[bool]:
        if row is None or row["state"] != State.FAILED.value:
            return Change(row, answer=False, written=False)
        return Change(None, answer=True)

    return rule


def running() -> Rule[bool]:
    """Whether a key runs; nothing is changed."""

    def rule(row: Row | None, now: float) -> Change[bool]:
        runs = row is not None and row["state"] == State.RUNNING.value and row["until"] > now
        return Change(row, answer=runs, written=False)

    return rule


def _mine(row: Row | None, token: int) -> TypeGuard[Row]:
    return row is not None and row["state"] == State.RUNNING.value and row["token"] == token


_NEW: Row = {
    "deliveries": 0,
    "note": {},
    "first_failed_at": None,
    "last_failed_at": None,
    "parked_at": None,
    "revision": 0,
}


def delivered(keep: float) -> Rule[int]:
    """See `Messages.delivered`."""

    def rule(row: Row | None, now: float) -> Change[int]:
        row = {**(row or _NEW)}
        row["deliveries"] += 1
        return Change(row, row["deliveries"], _kept(row, now + keep))

    return rule


def undelivered(keep: float) -> Rule[None]:
    """See `CountsBack.undelivered`."""

    def rule(row: Row | None, now: float) -> Change[None]:
        if row is None or row["deliveries"] < 1:  # it was settled or redriven meanwhile
            return Change(row, None, written=False)
        row = {**row, "deliveries": row["deliveries"] - 1}
        if row == _NEW:
            return Change(None, None)
        return Change(row, None, _kept(row, now + keep))

    return rule


def note(content: Mapping[str, Any], keep: float, *, parked: bool) -> Rule[None]:
    """See `Messages.note`."""

    def rule(row: Row | None, now: float) -> Change[None]:
        row = {**(row or _NEW), "note": dict(content), "last_failed_at": now}
        if row["first_failed_at"] is None:
            row["first_failed_at"] = now
        if parked:
            row = {**_ready(row), "parked_at": now, "revision": row["revision"] + 1}
        return Change(row, None, _kept(row, now + keep))

    return rule


def settle() -> Rule[None]:
    """See `Messages.settle`."""
    return lambda row, _: Change(None, None, written=row is not None)


def prepare(revision: int) -> Rule[int | None]:
    """See `Messages.prepare`."""

    def rule(row: Row | None, _: float) -> Change[int | None]:
        if row is None or row["parked_at"] is None or row["revision"] != revision:
            return Change(row, None, written=False)
        return Change({**row, "deliveries": 0, "revision": revision + 1}, revision + 1)

    return rule


def remove(revision: int) -> Rule[bool]:
    """See `Messages.remove`."""

    def rule(row: Row | None, _: float) -> Change[bool]:
        if row is None or row["revision"] != revision:
            return Change(row, answer=False, written=False)
        return Change(None, answer=True)

    return rule


# Messages that wait to be tried again. Only their rows have a `due_at`: versions that know nothing
# of it read all others.


def arrived(keep: float) -> Rule[int]:
    """See `Postpones.arrived`."""
    count = delivered(keep)

    def rule(row: Row | None, now: float) -> Change[int]:
        if row is not None and waits(row) and not row.get("handing"):
            return Change(row, 0, written=False)
        return count(row, now)

    return rule


def postpone(content: Mapping[str, Any], seconds: float) -> Rule[None]:
    """See `Postpones.postpone`."""

    def rule(row: Row | None, now: float) -> Change[None]:
        row = {**_ready(row or _NEW), "note": dict(content), "last_failed_at": now}
        if row["first_failed_at"] is None:
            row["first_failed_at"] = now
        row |= {"parked_at": None, "revision": row["revision"] + 1, "due_at": now + seconds}
        return Change(row, None)

    return rule


def take(revision: int) -> Rule[int | None]:
    """See `RelayedStore.take`."""

    def rule(row: Row | None, _: float) -> Change[int | None]:
        if row is None or not waits(row) or row["revision"] != revision:
            return Change(row, None, written=False)
        return Change({**row, "handing": True, "revision": revision + 1}, revision + 1)

    return rule


def sent(revision: int, keep: float) -> Rule[bool]:
    """See `RelayedStore.sent`."""

    def rule(row: Row | None, now: float) -> Change[bool]:
        if row is None or not waits(row) or row["revision"] != revision:
            return Change(row, answer=False, written=False)
        return Change(_ready(row), answer=True, keep_until=now + keep)

    return rule


def waits(row: Row) -> bool:
    """Whether a message waits to be tried again."""
    return row.get("due_at") is not None and row["parked_at"] is None


def _ready(row: Row) -> Row:
    """The row of a message that waits for nothing."""
    return {name: value for name, value in row.items() if name not in {"due_at", "handing"}}


def _kept(row: Row, until: float) -> float | None:
    """When a message's row may go."""
    return None if row["parked_at"] is not None or waits(row) else until


_SHOWN = {field.name for field in attrs.fields(Record)}


def record(message: str, row: Row) -> Record:
    """A message's row, for people and programs."""
    return Record(id=message, **{name: row[name] for name in row if name in _SHOWN})

"""One of several processes that claim the same keys; what it sees goes to a file, line by line.

Run by the tests: ``contender.py STORE ADDRESS LOG NUMBER KEYS GATE``. GATE is a file that lets it
come to its last keys.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from iii_resilience.stores import (
    PostgresStore,
    RedisStore,
    SqliteStore,
    State,
    Store,
    StoreUnavailableError,
)

LONG = 600.0  # no machine is as slow as this
SHORT = 0.2


def main(kind: str, address: str, log: str, number: int, keys: int, gate: str) -> None:
    store: Store
    if kind == "sqlite":
        store = SqliteStore(address, busy_timeout=60.0)
    elif kind == "redis":
        store = RedisStore(address, timeout=2.0)
    else:
        store = PostgresStore(address, timeout=30.0)
    dice = random.Random(number)
    with Path(log).open("w", encoding="utf-8") as out:

        def say(**what: Any) -> None:
            out.write(json.dumps(what) + "\n")
            out.flush()

        for key in range(keys):
            while key >= 0.8 * keys and not Path(gate).exists():
                try:
                    store.delivered("at the gate", keep=LONG)
                except StoreUnavailableError:
                    say(event="away", key="at the gate")
                time.sleep(0.02)
            end = dice.choices(["done", "released", "abandoned"], [6, 3, 1])[0]
            while not attempt(store, f"k{key}", end, f"{number}-{dice.random()}", say):
                time.sleep(0.02)


def attempt(store: Store, key: str, end: str, nonce: str, say: Any) -> bool:
    """One claim of a key and what follows; False where the store was away."""
    lease = SHORT if end == "abandoned" else LONG
    asked = time.monotonic()
    try:
        claim = store.claim(key, fingerprint="f", nonce=nonce, lease=lease, keep=LONG)
    except StoreUnavailableError:
        say(event="away", key=key)
        return False
    if claim.state is not State.CLAIMED:
        say(event="refused", key=key, state=claim.state.value, outcome=claim.outcome)
        return True
    began = time.monotonic()
    token = claim.token
    say(event="began", key=key, token=token, asked=asked, at=began, lease=lease, nonce=nonce)
    if end == "abandoned":
        return True
    ended = time.monotonic()  # whoever runs it next begins later than this
    say(event="ended", key=key, token=token, at=ended, how=end)
    while True:
        try:
            if end == "done":
                mine = store.finish(key, token, json.dumps(nonce), keep=LONG)
            else:
                mine = store.release(key, token)
        except StoreUnavailableError:
            say(event="away", key=key)
            time.sleep(0.02)
        else:
            say(event="told", key=key, token=token, how=end, mine=mine)
            return True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])

"""Which functions are asked about, and what answers mean; without an engine and a clock."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from iii_resilience.handling.registration.entries import RegistrationState
from iii_resilience.handling.registration.ownership import OwnershipPolling
from iii_resilience.handling.registration.registrations import RegistrationTable
from iii_resilience.sdk.client_adapter import ClientAdapter
from iii_resilience.sdk.engine_api import IDS_AT_ONCE, FunctionStatus


class Client:
    """An SDK client that registers everything."""

    def get_connection_state(self) -> str:
        return "connected"

    def shutdown(self) -> None: ...

    async def trigger_async(self, request: Any) -> Any: ...

    def register_function(self, function_id: str, handler: Any, **options: Any) -> Any:
        return object()


def rounds_of(count: int) -> tuple[RegistrationTable, OwnershipPolling]:
    served = RegistrationTable(ClientAdapter(Client()), lambda entry: None)
    for number in range(count):
        served.add_function(f"t::f{number}", None, {})
    return served, OwnershipPolling(served, "me")


def learn(rounds: OwnershipPolling, owner: str | None, *ids: str, now: float = 1e9) -> Any:
    return rounds.answered(
        list(ids), {i: FunctionStatus(owner is not None, owner) for i in ids}, now
    )


def state(served: RegistrationTable, function_id: str) -> RegistrationState:
    entry = served.function(function_id)
    assert entry is not None
    return entry.state


def test_nothing_is_asked_where_nothing_is_served() -> None:
    assert rounds_of(0)[1].next_ids() == []


@pytest.mark.parametrize("count", [1, 31, 32])
def test_up_to_most_all_are_asked_about_every_time(count: int) -> None:
    _, rounds = rounds_of(count)
    for _ in range(3):
        assert len(rounds.next_ids()) == count


def test_with_more_each_has_its_turn() -> None:
    _, rounds = rounds_of(100)
    asked: set[str] = set()
    for _ in range(4):
        ids = rounds.next_ids()
        assert len(ids) == len(set(ids)) == IDS_AT_ONCE
        asked.update(ids)
    assert len(asked) == 100


def test_each_owner_has_one_representative_function() -> None:
    served, rounds = rounds_of(300)
    for number, entry in enumerate(served.functions()):
        entry.set_state(RegistrationState.STANDBY, owner=f"w{number % 3}")
    owner_of = {entry.function_id: entry.owner for entry in served.functions()}
    for _ in range(20):
        owners = {owner_of[function_id] for function_id in rounds.next_ids()}
        assert owners == {"w0", "w1", "w2"}


def test_lost_representative_makes_owners_functions_urgent() -> None:
    served, rounds = rounds_of(300)
    for number, entry in enumerate(served.functions()):
        entry.set_state(RegistrationState.STANDBY, owner=f"w{number % 3}")
    learn(rounds, None, "t::f0")
    assert rounds.has_urgent
    asked: list[str] = []
    while rounds.has_urgent:
        asked.extend(rounds.next_ids())
    assert {f"t::f{n}" for n in range(3, 300, 3)} <= set(asked[:110])


def test_so_they_are_when_it_has_another_owner() -> None:
    served, rounds = rounds_of(50)
    for entry in served.functions():
        entry.set_state(RegistrationState.STANDBY, owner="w0")
    learn(rounds, "w1", "t::f7")
    assert rounds.has_urgent


def test_unowned_function_is_orphan_unless_young() -> None:
    served, rounds = rounds_of(1)
    entry = served.functions()[0]
    entry.attempts.at = 100.0
    assert learn(rounds, None, "t::f0", now=100.5) == ([], 0.05)
    assert learn(rounds, None, "t::f0", now=100.6)[0] == [entry]
    learn(rounds, "me", "t::f0", now=100.7)
    assert learn(rounds, None, "t::f0", now=102.0)[0] == [entry]


def test_what_is_never_taken_in_is_tried_ever_less_often() -> None:
    served, rounds = rounds_of(1)
    entry = served.functions()[0]
    now, tried = 1e6, []
    while now < 1e6 + 600:
        orphans, _ = learn(rounds, None, "t::f0", now=now)
        for orphan in orphans:
            orphan.attempts.tries += 1
            tried.append(now)
        now += 1
    assert len(tried) < 25
    assert max(b - a for a, b in pairwise(tried)) <= 62
    learn(rounds, "me", "t::f0")
    assert (entry.attempts.tries, entry.attempts.retry_at) == (0, 0.0)


def test_what_is_hidden_is_left_as_it_is() -> None:
    served, rounds = rounds_of(1)
    hidden = FunctionStatus.read({"function_id": "t::f0", "error": "forbidden"}, "default")
    assert rounds.answered(["t::f0"], {"t::f0": hidden}, 1e9) == ([], None)
    assert state(served, "t::f0") is RegistrationState.UNKNOWN


def test_answer_without_id_says_that_nobody_owns_it() -> None:
    served, rounds = rounds_of(1)
    rounds.learn(["t::f0", "t::gone"], {}, 1e9)
    assert state(served, "t::f0") is RegistrationState.MISSING

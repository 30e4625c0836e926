"""Which functions are asked about, and what answers mean; without an engine and a clock."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from iii_resilience.handling.registration import entries
from iii_resilience.handling.registration.entries import (
    FunctionEntry,
    RegistrationState,
    TriggerEntry,
)
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


def entry_of(served: RegistrationTable, function_id: str = "t::f0") -> FunctionEntry:
    entry = served.function(function_id)
    assert entry is not None
    return entry


def add_trigger(
    served: RegistrationTable, kind: str = "http", function_id: str = "t::f0", **more: Any
) -> TriggerEntry:
    """A trigger as the table keeps it, registered at 0 s."""
    trigger = TriggerEntry("trigger", function_id, kind, **more)
    trigger.attempts.at = 0.0
    served._triggers.append(trigger)
    return trigger


def seen(
    rounds: OwnershipPolling, owner: str | None, *triggers: tuple[str, str], now: float = 100.0
) -> None:
    """The engine says that an owner serves `t::f0`, with these triggers."""
    rounds.learn(["t::f0"], {"t::f0": FunctionStatus(True, owner, triggers=triggers)}, now)


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


# The order of the questions.


def test_each_round_goes_on_where_last_one_ended() -> None:
    _, rounds = rounds_of(40)
    ids = [f"t::f{number}" for number in range(40)]
    assert rounds.next_ids() == ids[1:33]
    assert rounds.next_ids() == ids[33:] + ids[:25]
    _, few = rounds_of(3)
    assert few.next_ids() == few.next_ids() == ["t::f1", "t::f2", "t::f0"]


def test_suspects_are_asked_about_first_and_once() -> None:
    _, rounds = rounds_of(100)
    rounds.check_next(["t::f90", "t::gone", "t::f40"])
    assert rounds.has_urgent
    assert rounds.next_ids()[:3] == ["t::f90", "t::f40", "t::f1"]
    assert not rounds.has_urgent
    assert rounds.next_ids()[0] == "t::f31"


def test_more_suspects_than_one_question_takes_wait_for_next() -> None:
    _, rounds = rounds_of(100)
    suspects = [f"t::f{number}" for number in range(99, 59, -1)]
    rounds.check_next(suspects)
    assert rounds.next_ids() == suspects[:IDS_AT_ONCE]
    assert rounds.has_urgent
    assert rounds.next_ids()[:9] == [*suspects[IDS_AT_ONCE:], "t::f1"]
    assert not rounds.has_urgent


def test_suspect_that_is_served_no_longer_is_forgotten() -> None:
    _, rounds = rounds_of(1)
    rounds.check_next(["t::gone"])
    assert rounds.next_ids() == ["t::f0"]
    assert not rounds.has_urgent


def test_representatives_take_half_of_question_at_most() -> None:
    served, rounds = rounds_of(100)
    for number, entry in enumerate(served.functions()):
        entry.set_state(RegistrationState.STANDBY, owner=f"w{number}")
    first = [f"t::f{number}" for number in range(16)]
    assert rounds.next_ids() == first + [f"t::f{number}" for number in range(16, 32)]
    assert rounds.next_ids() == first + [f"t::f{number}" for number in range(32, 48)]


def test_representatives_only_fill_what_suspects_leave() -> None:
    served, rounds = rounds_of(100)
    for number, entry in enumerate(served.functions()):
        entry.set_state(RegistrationState.STANDBY, owner=f"w{number}")
    suspects = [f"t::f{number}" for number in range(99, 69, -1)]
    rounds.check_next(suspects)
    assert rounds.next_ids() == [*suspects, "t::f0", "t::f1"]


def test_representative_of_owner_changes() -> None:
    served, rounds = rounds_of(40)
    for entry in served.functions():
        entry.set_state(RegistrationState.STANDBY, owner="w")
    assert rounds.next_ids()[:2] == ["t::f0", "t::f1"]
    assert rounds.next_ids()[:2] == ["t::f31", "t::f32"]


def test_only_standby_functions_have_representative() -> None:
    served, rounds = rounds_of(40)
    served.functions()[7].set_state(RegistrationState.OWNER, owner="me")
    served.functions()[8].set_state(RegistrationState.STANDBY)
    served.functions()[9].set_state(RegistrationState.STANDBY, owner="w")
    assert rounds.next_ids()[:2] == ["t::f9", "t::f1"]


# What an answer means for a function.


def test_function_given_up_meanwhile_is_passed_over() -> None:
    served, rounds = rounds_of(1)
    entry = entry_of(served)
    orphans, soon = rounds.answered(["t::gone", "t::f0"], {}, 1e9)
    assert (orphans, soon) == ([entry], 0.05)
    seen_both = {"t::f0": FunctionStatus(True, "w")}
    rounds.learn(["t::gone", "t::f0"], seen_both, 1e9)
    assert (entry.state, entry.owner) == (RegistrationState.STANDBY, "w")


@pytest.mark.parametrize("how", ["answered", "learn"])
def test_hidden_function_stops_no_other_and_may_appear(how: str) -> None:
    served, rounds = rounds_of(2)
    first, second = served.functions()
    first.set_state(RegistrationState.STANDBY, owner="w")
    hidden = FunctionStatus(True, None, forbidden=True)
    getattr(rounds, how)(
        ["t::f0", "t::f1"], {"t::f0": hidden, "t::f1": FunctionStatus(True, "me")}, 1e9
    )
    assert (first.state, first.owner) == (RegistrationState.STANDBY, "w")
    assert (second.state, second.owner) == (RegistrationState.OWNER, "me")
    if how == "answered":
        assert (first.hidden, second.hidden) == (True, False)
        assert not rounds.has_urgent
        learn(rounds, "w", "t::f0")
        assert first.hidden is False


def test_same_owner_as_before_makes_nothing_urgent() -> None:
    served, rounds = rounds_of(3)
    for entry in served.functions():
        entry.set_state(RegistrationState.STANDBY, owner="w")
    assert learn(rounds, "w", "t::f0") == ([], None)
    assert not rounds.has_urgent


def test_lost_owner_makes_only_its_own_standby_functions_urgent() -> None:
    served, rounds = rounds_of(6)
    standby, owner = RegistrationState.STANDBY, RegistrationState.OWNER
    known = [(standby, "w"), (standby, "w"), (standby, "v"), (owner, "w"), (standby, None)]
    for entry, (how, whose) in zip(served.functions(), known, strict=False):
        entry.set_state(how, owner=whose)
    # The second was part of the same question: what it says is known.
    learn(rounds, "v", "t::f0")
    assert list(rounds._suspects) == ["t::f1"]
    rounds.next_ids()
    entry_of(served).set_state(standby, owner="w")
    rounds.answered(
        ["t::f0", "t::f1"],
        {"t::f0": FunctionStatus(True, "v"), "t::f1": FunctionStatus(True, "w")},
        1e9,
    )
    assert not rounds.has_urgent


def test_lost_own_function_makes_no_other_urgent() -> None:
    served, rounds = rounds_of(2)
    first, second = served.functions()
    first.set_state(RegistrationState.OWNER, owner="w")
    second.set_state(RegistrationState.STANDBY, owner="w")
    learn(rounds, "v", "t::f0")
    assert not rounds.has_urgent


def test_young_function_without_owner_is_looked_at_again() -> None:
    served, rounds = rounds_of(2)
    entry = entry_of(served)
    entry.attempts.at = 100.0
    trigger = add_trigger(served)
    assert learn(rounds, None, "t::f0", now=100.9) == ([], 0.05)
    assert rounds.next_ids()[0] == "t::f0"
    assert entry.state is trigger.state is RegistrationState.UNKNOWN


def test_function_is_young_for_less_than_second() -> None:
    served, rounds = rounds_of(1)
    entry = entry_of(served)
    entry.attempts.at = 100.0
    assert learn(rounds, None, "t::f0", now=101.0) == ([entry], 0.05)
    assert rounds.has_urgent


def test_orphan_and_its_triggers_are_missing() -> None:
    served, rounds = rounds_of(2)
    entry = entry_of(served)
    entry.set_state(RegistrationState.STANDBY, owner="w", code="taken")
    trigger, other = add_trigger(served), add_trigger(served, function_id="t::f1")
    assert learn(rounds, None, "t::f0")[0] == [entry]
    assert (entry.state, entry.owner, entry.code) == (RegistrationState.MISSING, None, "taken")
    assert trigger.state is RegistrationState.MISSING
    assert other.state is RegistrationState.UNKNOWN


def test_rejected_orphan_stays_rejected() -> None:
    served, rounds = rounds_of(1)
    entry = entry_of(served)
    entry.set_state(RegistrationState.REJECTED, code="FORBIDDEN")
    trigger = add_trigger(served)
    assert learn(rounds, None, "t::f0")[0] == [entry]
    assert (entry.state, entry.code) == (RegistrationState.REJECTED, "FORBIDDEN")
    assert trigger.state is RegistrationState.UNKNOWN
    rounds.learn(["t::f0"], {}, 1e9)
    assert entry.state is RegistrationState.REJECTED


def test_pauses_between_tries_double_up_to_minute(caplog: pytest.LogCaptureFixture) -> None:
    served, rounds = rounds_of(1)
    attempts = entry_of(served).attempts
    waits, warnings = {}, {}
    for tries in range(10):
        attempts.tries, attempts.retry_at = tries, 0.0
        caplog.clear()
        with caplog.at_level(logging.WARNING, "iii_resilience"):
            learn(rounds, None, "t::f0", now=1000.0)
        waits[tries] = attempts.retry_at
        warnings[tries] = [r.getMessage() for r in caplog.records if "several times" in r.msg]
    assert [waits[tries] for tries in range(3)] == [0.0] * 3
    assert [waits[tries] - 1000 for tries in range(3, 10)] == [2, 4, 8, 16, 32, 60, 60]
    assert [tries for tries in waits if warnings[tries]] == [3]
    assert warnings[3][0].startswith("t::f0: registered several times")


def test_pause_is_kept_to_its_very_end() -> None:
    served, rounds = rounds_of(1)
    entry = entry_of(served)
    entry.attempts.retry_at = 2000.0
    assert learn(rounds, None, "t::f0", now=1999.0) == ([], None)
    assert not rounds.has_urgent
    assert entry.attempts.misses == 1
    assert learn(rounds, None, "t::f0", now=2000.0) == ([entry], 0.05)
    entry.attempts.at, entry.attempts.misses = 2000.0, 0
    assert learn(rounds, None, "t::f0", now=2000.0) == ([], 0.05)  # young, and no pause is left


def test_what_is_learned_makes_known_function_missing_at_once() -> None:
    served, rounds = rounds_of(1)
    entry, trigger = entry_of(served), add_trigger(served)
    entry.attempts.at = 100.0
    rounds.learn(["t::f0"], {}, 100.9)
    both = (entry, trigger)
    assert {one.state for one in both} == {RegistrationState.UNKNOWN}  # it may be on its way
    entry.set_state(RegistrationState.OWNER, owner="me")
    rounds.learn(["t::f0"], {}, 100.9)
    assert {one.state for one in both} == {RegistrationState.MISSING}


def test_what_is_learned_counts_unknown_function_after_second() -> None:
    served, rounds = rounds_of(1)
    entry_of(served).attempts.at = 100.0
    rounds.learn(["t::f0"], {}, 101.0)
    assert state(served, "t::f0") is RegistrationState.MISSING


def test_seen_function_begins_anew() -> None:
    served, rounds = rounds_of(1)
    entry = entry_of(served)
    for owner, expected in (("me", RegistrationState.OWNER), ("w", RegistrationState.STANDBY)):
        attempts = entry.attempts
        attempts.misses, attempts.tries, attempts.retry_at = 3, 4, 5.0
        entry.set_state(RegistrationState.MISSING, code="why")
        learn(rounds, owner, "t::f0")
        assert (entry.state, entry.owner, entry.code) == (expected, owner, None)
        assert (attempts.misses, attempts.tries, attempts.retry_at) == (0, 0, 0.0)
    assert entry.attempts.retry_at == 0.0


def test_answer_to_earlier_question_changes_nothing() -> None:
    """Two threads ask, and the one with the earlier question learns its answer last."""
    served, rounds = rounds_of(1)
    owned = {"t::f0": FunctionStatus(True, "me")}
    rounds.answered(["t::f0"], owned, 1e9, 20.0)
    rounds.learn(["t::f0"], {}, 1e9, 10.0)
    assert state(served, "t::f0") is RegistrationState.OWNER
    assert rounds.answered(["t::f0"], {}, 1e9, 10.0) == ([], None)
    assert rounds.has_urgent  # it is to be checked once more
    assert state(served, "t::f0") is RegistrationState.OWNER
    rounds.learn(["t::f0"], {}, 1e9, 20.0)
    assert state(served, "t::f0") is RegistrationState.MISSING


def test_change_that_two_threads_learn_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    both, now = threading.Barrier(2, timeout=1.0), time.time()

    def meet() -> float:
        """The time: both threads are about to change the state, if they can be at once."""
        with suppress(threading.BrokenBarrierError):
            both.wait()
        return now

    served, _ = rounds_of(1)
    entry = entry_of(served)
    monkeypatch.setattr(entries, "time", SimpleNamespace(time=meet, monotonic=time.monotonic))
    with caplog.at_level(logging.INFO, "iii_resilience"), ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(entry.set_state, RegistrationState.STANDBY, owner="w")
    told = [r for r in caplog.records if "t::f0: function standby" in r.getMessage()]
    assert len(told) == 1


def test_code_of_standby_function_is_kept_while_it_stands_by() -> None:
    served, rounds = rounds_of(1)
    entry = entry_of(served)
    entry.set_state(RegistrationState.STANDBY, owner="w", code="why")
    learn(rounds, "v", "t::f0")
    assert (entry.owner, entry.code) == ("v", "why")
    learn(rounds, "me", "t::f0")
    assert entry.code is None


# What it means for triggers.


def test_triggers_of_others_are_remembered() -> None:
    served, rounds = rounds_of(1)
    entry = entry_of(served)
    add_trigger(served, trigger_id="own", made=True)
    seen(rounds, "me", ("own", "http"), ("theirs", "cron"))
    assert entry.others == {("theirs", "cron")}
    rounds.learn(["t::f0"], {"t::f0": FunctionStatus(True, "me")}, 100.0)
    assert entry.others == {("theirs", "cron")}  # the engine has not said
    seen(rounds, "me", ("own", "http"))
    assert entry.others == frozenset()


def test_standby_trigger_is_active_with_owner() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served)
    trigger.attempts.misses = 1
    seen(rounds, "w", ("x", "cron"), ("y", "http"))
    assert (trigger.state, trigger.owner) == (RegistrationState.STANDBY, "w")
    assert trigger.attempts.misses == 0


def test_standby_trigger_is_believed_where_engine_does_not_say() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served)
    learn(rounds, "w", "t::f0")
    assert (trigger.state, trigger.owner) == (RegistrationState.STANDBY, "w")


def test_unknown_trigger_of_owner_is_missing_when_missing_twice() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served)
    seen(rounds, "w", ("x", "cron"))
    assert (trigger.state, trigger.attempts.misses) == (RegistrationState.UNKNOWN, 1)
    seen(rounds, "w", ("x", "cron"))
    assert (trigger.state, trigger.owner) == (RegistrationState.MISSING, "w")
    assert trigger.attempts.misses == 2


def test_standby_trigger_that_owner_gave_up_is_missing_at_once() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served)
    seen(rounds, "w", ("x", "http"))
    seen(rounds, "w")
    assert (trigger.state, trigger.owner) == (RegistrationState.MISSING, "w")
    assert not trigger.lost


def test_trigger_to_be_made_here_stays_as_it_is() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served)
    seen(rounds, "me", ("x", "http"))
    seen(rounds, "me")
    seen(rounds, "me")
    assert (trigger.state, trigger.attempts.misses) == (RegistrationState.UNKNOWN, 0)


@pytest.mark.parametrize(
    ("trigger_id", "listed", "active"),
    [
        ("own", ("own", "http"), True),
        ("own", ("other", "http"), False),
        (None, ("other", "http"), True),
        (None, ("other", "cron"), False),
    ],
)
def test_made_trigger_is_found_by_id_or_else_type(
    trigger_id: str | None, listed: tuple[str, str], active: bool
) -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, trigger_id=trigger_id, made=True)
    trigger.attempts.misses = trigger.attempts.tries = 1
    seen(rounds, "me", ("elsewhere", "state"), listed)
    if active:
        assert (trigger.state, trigger.owner) == (RegistrationState.OWNER, "me")
        assert (trigger.attempts.misses, trigger.attempts.tries) == (0, 0)
        assert not trigger.lost
    else:
        assert (trigger.state, trigger.owner) == (RegistrationState.MISSING, None)
        assert (trigger.attempts.misses, trigger.attempts.tries) == (2, 1)
        assert (trigger.lost, trigger.taken) == (True, False)
        assert trigger.attempts.retry_at == 102.0  # 2 ** tries later


def test_made_trigger_stays_where_engine_does_not_say() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, trigger_id="own", made=True)
    learn(rounds, "me", "t::f0")
    assert (trigger.state, trigger.attempts.misses) == (RegistrationState.UNKNOWN, 0)


def test_young_trigger_is_missing_when_missing_twice() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, trigger_id="own", made=True)
    trigger.attempts.at = 100.0
    seen(rounds, "me", now=100.9)
    assert (trigger.state, trigger.lost) == (RegistrationState.UNKNOWN, False)
    assert trigger.attempts.misses == 1
    seen(rounds, "me", now=100.9)
    assert (trigger.state, trigger.lost) == (RegistrationState.MISSING, True)


def test_trigger_is_young_for_less_than_second() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, trigger_id="own", made=True)
    trigger.attempts.at = 100.0
    seen(rounds, "me", now=101.0)
    assert (trigger.state, trigger.attempts.retry_at) == (RegistrationState.MISSING, 102.0)


def test_rejected_trigger_is_left_to_its_pause() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, trigger_id="own", made=True)
    trigger.set_state(RegistrationState.REJECTED, code="why")
    seen(rounds, "me")
    assert (trigger.state, trigger.code) == (RegistrationState.REJECTED, "why")
    assert trigger.attempts.misses == 0


def test_lost_trigger_is_not_active_before_it_is_made_anew() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, trigger_id="own", made=True, lost=True)
    trigger.set_state(RegistrationState.MISSING)
    seen(rounds, "me", ("own", "http"))
    assert trigger.state is RegistrationState.MISSING


# http loses with a later registration, subscribe with any, cron with none (engine notes, 16).
@pytest.mark.parametrize(
    ("kind", "older", "gone_type", "taken"),
    [
        ("http", (), "http", True),
        ("http", ("theirs",), "http", False),
        ("http", (), "subscribe", False),
        ("subscribe", ("theirs",), "subscribe", True),
        ("cron", (), "cron", False),
    ],
)
def test_trigger_that_goes_with_another_is_made_anew_at_once(
    kind: str, older: tuple[str, ...], gone_type: str, taken: bool
) -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, kind, trigger_id="own", made=True, older=frozenset(older))
    seen(rounds, "me", ("own", kind), ("theirs", gone_type))
    assert trigger.state is RegistrationState.OWNER
    trigger.attempts.tries, trigger.attempts.retry_at = 5, 900.0
    seen(rounds, "me", ("own", kind))
    assert (trigger.lost, trigger.taken) == (taken, taken)
    if taken:
        assert (trigger.state, trigger.owner) == (RegistrationState.MISSING, None)
        assert (trigger.attempts.tries, trigger.attempts.retry_at) == (0, 0.0)
    else:
        assert (trigger.state, trigger.owner) == (RegistrationState.OWNER, "me")


def test_trigger_gone_itself_is_not_taken_by_another() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, trigger_id="own", made=True)
    seen(rounds, "me", ("own", "http"), ("theirs", "http"))
    seen(rounds, "me")
    assert (trigger.lost, trigger.taken) == (True, False)


def test_each_function_has_its_own_triggers() -> None:
    served, rounds = rounds_of(2)
    own, other = add_trigger(served), add_trigger(served, function_id="t::f1")
    made = add_trigger(served, function_id="t::f1", trigger_id="own", made=True)
    seen(rounds, "w", ("x", "http"))
    assert own.state is RegistrationState.STANDBY
    assert other.state is made.state is RegistrationState.UNKNOWN


def test_poll_finds_lost_trigger_as_well() -> None:
    served, rounds = rounds_of(1)
    trigger = add_trigger(served, trigger_id="own", made=True)
    answer = FunctionStatus(True, "me", triggers=())
    assert rounds.answered(["t::f0"], {"t::f0": answer}, 100.0) == ([], None)
    assert (trigger.state, trigger.attempts.retry_at) == (RegistrationState.MISSING, 101.0)

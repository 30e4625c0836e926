"""What every store promises, asked of all three."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

from iii_resilience.stores import Claim, Record, State, Store
from iii_resilience.stores.protocol import digest

SLOT = digest("orders::save", "o-1")
FOREVER = 3600.0


def claim(store: Store, slot: str = SLOT, **more: Any) -> Claim:
    settings: dict[str, Any] = {
        "fingerprint": "f",
        "nonce": digest(time.monotonic_ns()),
        "lease": FOREVER,
        "keep": FOREVER,
    }
    return store.claim(slot, **{**settings, **more})


def eventually(ask: Callable[[], Any], seconds: float = 30.0) -> Any:
    until = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < until:
        time.sleep(0.02)
    return answer


def claimed(store: Store, slot: str = SLOT, **more: Any) -> Claim | None:
    found = claim(store, slot, **more)
    return found if found.state is State.CLAIMED else None


# Keys.


def test_key_is_claimed_once(store: Store) -> None:
    assert claim(store).state is State.CLAIMED
    second = claim(store)
    assert second.state is State.RUNNING
    assert 0 < second.left <= FOREVER
    assert claim(store, digest("orders::save", "o-2")).state is State.CLAIMED


def test_of_many_that_claim_at_once_one_gets_key(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        states = [one.state for one in pool.map(lambda _: claim(store), range(64))]
    assert states.count(State.CLAIMED) == 1
    assert states.count(State.RUNNING) == 63


def test_result_is_kept_and_given_to_whoever_comes_later(store: Store) -> None:
    token = claim(store).token
    assert store.finish(SLOT, token, '{"n": 1}', keep=FOREVER)
    found = claim(store)
    assert (found.state, found.outcome) == (State.DONE, '{"n": 1}')


def test_failure_is_kept_until_it_is_forgotten(store: Store) -> None:
    assert not store.forget_failure(SLOT)
    token = claim(store).token
    assert not store.forget_failure(SLOT)
    assert store.finish(SLOT, token, "why", failed=True, keep=FOREVER)
    found = claim(store)
    assert (found.state, found.outcome) == (State.FAILED, "why")
    assert store.forget_failure(SLOT)
    assert claim(store).state is State.CLAIMED


def test_result_is_never_forgotten_as_failure(store: Store) -> None:
    store.finish(SLOT, claim(store).token, "1", keep=FOREVER)
    assert not store.forget_failure(SLOT)
    assert claim(store).state is State.DONE


def test_what_is_kept_goes_when_its_time_is_over(store: Store) -> None:
    token = claim(store).token
    store.finish(SLOT, token, "1", keep=0.2)
    again = eventually(lambda: claimed(store))
    assert again is not None
    assert again.token > token


def test_released_key_is_free_at_once(store: Store) -> None:
    token = claim(store).token
    assert store.release(SLOT, token)
    assert not store.release(SLOT, token)
    again = claim(store)
    assert again.state is State.CLAIMED
    assert again.token > token


def test_lease_that_is_over_frees_key_and_not_before(store: Store) -> None:
    began = time.monotonic()
    first = claim(store, lease=0.4)
    again = eventually(lambda: claimed(store, lease=FOREVER))
    assert again is not None
    assert time.monotonic() - began >= 0.39
    assert again.token > first.token


def test_renewed_lease_lasts(store: Store) -> None:
    token = claim(store, lease=1.0).token
    assert store.renew(SLOT, token, lease=FOREVER, keep=FOREVER)
    time.sleep(1.1)
    assert claim(store).state is State.RUNNING


def test_who_has_lost_lease_changes_nothing_any_more(store: Store) -> None:
    old = claim(store, lease=0.01).token
    new = eventually(lambda: claimed(store))
    assert new is not None
    assert not store.renew(SLOT, old, lease=FOREVER, keep=FOREVER)
    assert not store.finish(SLOT, old, '"old"', keep=FOREVER)
    assert not store.release(SLOT, old)
    assert claim(store).state is State.RUNNING
    assert store.finish(SLOT, new.token, '"new"', keep=FOREVER)
    assert not store.finish(SLOT, old, '"old"', failed=True, keep=FOREVER)
    assert claim(store).outcome == '"new"'


def test_late_holder_may_finish_if_key_was_not_claimed(store: Store) -> None:
    token = claim(store, lease=0.01).token
    time.sleep(0.05)
    assert store.finish(SLOT, token, "1", keep=FOREVER)
    assert claim(store).state is State.DONE


def test_operation_whose_answer_was_lost_may_be_repeated(store: Store) -> None:
    first = claim(store, nonce="n")
    assert claim(store, nonce="n") == first
    assert store.finish(SLOT, first.token, "1", keep=FOREVER)
    assert store.finish(SLOT, first.token, "1", keep=FOREVER)
    assert not store.finish(SLOT, first.token, "2", failed=True, keep=FOREVER)
    assert claim(store, nonce="n").state is State.DONE


@pytest.mark.parametrize("end", ["running", "over", "done", "failed"])
def test_another_payload_never_gets_key(store: Store, end: str) -> None:
    token = claim(store, lease=0.01 if end == "over" else FOREVER).token
    if end in {"done", "failed"}:
        store.finish(SLOT, token, "1", failed=end == "failed", keep=FOREVER)
    time.sleep(0.05)
    assert claim(store, fingerprint="g") == Claim(State.OTHER)
    assert claim(store).state.value == {"over": "claimed"}.get(end, end)


def test_outcomes_come_back_as_they_were(store: Store) -> None:
    outcome = '"\\u0000 \u00e9 \U0001f600 \' -- {}" '
    store.finish(SLOT, claim(store).token, outcome, keep=FOREVER)
    assert claim(store).outcome == outcome


# Messages.


def only(store: Store) -> Record:
    (record,) = store.records()
    return record


def test_deliveries_are_counted(store: Store) -> None:
    assert [store.delivered("m", keep=FOREVER) for _ in range(3)] == [1, 2, 3]
    assert store.delivered("other", keep=FOREVER) == 1
    store.settle("other")
    assert only(store) == Record("m", deliveries=3)


def test_deliveries_are_counted_whoever_counts(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: store.delivered("m", keep=FOREVER), range(64)))
    assert sorted(counts) == list(range(1, 65))


def test_failure_is_recorded_with_first_time_and_last(store: Store) -> None:
    before = time.time()
    store.delivered("m", keep=FOREVER)
    store.note("m", {"n": 1}, parked=False, keep=FOREVER)
    first = only(store)
    assert (first.note, first.deliveries, first.parked_at) == ({"n": 1}, 1, None)
    time.sleep(0.02)
    store.note("m", {"n": 2}, parked=False, keep=FOREVER)
    second = only(store)
    assert second.note == {"n": 2}
    assert second.first_failed_at == first.first_failed_at
    assert first.first_failed_at is not None
    assert second.last_failed_at is not None
    assert before - 1 <= first.first_failed_at < second.last_failed_at <= time.time() + 1


def test_handled_message_is_forgotten(store: Store) -> None:
    store.delivered("m", keep=FOREVER)
    store.note("m", {}, parked=True, keep=FOREVER)
    store.settle("m")
    store.settle("m")
    assert list(store.records()) == []
    assert store.delivered("m", keep=FOREVER) == 1


def test_only_parked_message_is_kept_without_end(store: Store) -> None:
    store.delivered("counted", keep=0.2)
    store.note("failed", {}, parked=False, keep=0.2)
    store.note("parked", {}, parked=True, keep=0.2)
    store.note("parked", {"n": 2}, parked=False, keep=0.2)
    store.delivered("parked", keep=0.2)
    time.sleep(0.4)
    assert only(store).id == "parked"
    assert only(store).parked_at is not None
    assert only(store).note == {"n": 2}
    assert store.delivered("counted", keep=FOREVER) == 1


def test_parked_message_is_redriven_and_then_removed(store: Store) -> None:
    store.delivered("m", keep=FOREVER)
    assert store.prepare("m", 0) is None, "it is not parked"
    store.note("m", {}, parked=True, keep=FOREVER)
    parked = only(store)
    revision = store.prepare("m", parked.revision)
    assert revision is not None
    assert revision == parked.revision + 1
    assert store.prepare("m", parked.revision) is None
    assert store.delivered("m", keep=FOREVER) == 1, "its deliveries begin anew"
    assert not store.remove("m", parked.revision)
    assert store.remove("m", revision)
    assert not store.remove("m", revision)
    assert list(store.records()) == []
    assert store.prepare("m", revision) is None


def test_what_was_parked_again_in_between_is_not_removed(store: Store) -> None:
    store.note("m", {}, parked=True, keep=FOREVER)
    revision = store.prepare("m", only(store).revision)
    assert revision is not None
    store.note("m", {"again": True}, parked=True, keep=FOREVER)
    assert not store.remove("m", revision)
    assert only(store).note == {"again": True}


def test_message_that_never_was_parked_can_be_removed_too(store: Store) -> None:
    store.note("m", {}, parked=False, keep=FOREVER)
    assert store.remove("m", only(store).revision)


def test_many_messages_are_all_found(store: Store) -> None:
    for number in range(450):
        store.note(f"m-{number}", {"n": number}, parked=number % 2 == 0, keep=FOREVER)
    found = {record.id: record.note["n"] for record in store.records()}
    assert found == {f"m-{number}": number for number in range(450)}


def test_keys_and_messages_do_not_meet(store: Store) -> None:
    store.delivered(SLOT, keep=FOREVER)
    assert claim(store).state is State.CLAIMED
    assert only(store).deliveries == 1


def test_what_is_kept_does_not_show(store: Store) -> None:
    store.note("m", {"secret": 1}, parked=True, keep=FOREVER)
    store.finish(SLOT, claim(store).token, "secret", keep=FOREVER)
    assert "secret" not in repr(only(store)) + repr(claim(store)) + repr(store)


def test_closed_store_opens_again(store: Store) -> None:
    token = claim(store).token
    store.close()
    assert store.finish(SLOT, token, "1", keep=FOREVER)


def test_delivery_is_counted_back(store: Store) -> None:
    counts: Any = store
    counts.undelivered("m", keep=FOREVER)
    assert list(store.records()) == []
    store.delivered("m", keep=FOREVER)
    counts.undelivered("m", keep=FOREVER)
    assert list(store.records()) == [], "nothing else is known of it"
    store.delivered("m", keep=FOREVER)
    store.note("m", {"n": 1}, parked=False, keep=FOREVER)
    counts.undelivered("m", keep=FOREVER)
    assert (only(store).deliveries, only(store).note) == (0, {"n": 1})
    store.delivered("m", keep=FOREVER)
    counts.undelivered("m", keep=0.1)
    assert eventually(lambda: not list(store.records()))


def test_counting_back_keeps_parked_message(store: Store) -> None:
    store.delivered("m", keep=FOREVER)
    store.note("m", {}, parked=True, keep=FOREVER)
    parked = only(store)
    counts: Any = store
    counts.undelivered("m", keep=0.1)
    counts.undelivered("m", keep=0.1)
    time.sleep(0.3)
    assert only(store) == attrs.evolve(parked, deliveries=0)

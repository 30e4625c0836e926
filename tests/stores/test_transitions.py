"""The transitions of one row, each as a function of the row and the time."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import pytest

from iii_resilience.stores import transitions
from iii_resilience.stores.protocol import Claim, Record, State
from iii_resilience.stores.transitions import Change, Row

NOW = 1000.0
RUNNING: Row = {
    "state": "running",
    "fingerprint": "f",
    "nonce": "n",
    "token": 7,
    "until": NOW + 5,
    "outcome": None,
}
DONE: Row = {**RUNNING, "state": "done", "outcome": '"x"'}
FAILED: Row = {**DONE, "state": "failed"}
STORED: Row = {
    "deliveries": 2,
    "note": {"code": "A"},
    "first_failed_at": 1.0,
    "last_failed_at": 2.0,
    "parked_at": None,
    "revision": 3,
}
PARKED: Row = {**STORED, "parked_at": 4.0}


WAITING: Row = {**STORED, "due_at": NOW + 9}
TAKEN: Row = {**WAITING, "handing": True}


def unchanged(row: Row | None, answer: Any) -> Change[Any]:
    return Change(row, answer, written=False)


def frozen(row: Row | None) -> Row | None:
    return None if row is None else {**row}


def applied(rule: Any, row: Row | None, now: float = NOW) -> Change[Any]:
    """What a rule makes of a row, which it must not change itself."""
    before = frozen(row)
    change: Change[Any] = rule(row, now)
    assert row == before
    return change


class TestClaim:
    @staticmethod
    def rule(row: Row | None, now: float) -> Change[Claim]:
        # Made in the test, as all rules are here: `make mutate` changes nothing before it.
        return transitions.claim("f", "n", 2.0, 30.0)(row, now)

    def test_free_key_is_claimed(self) -> None:
        row = {**RUNNING, "token": 1_000_000_000, "until": NOW + 2}
        assert applied(self.rule, None) == Change(
            row, Claim(State.CLAIMED, 1_000_000_000), NOW + 32
        )

    @pytest.mark.parametrize("row", [RUNNING, DONE, FAILED])
    def test_key_with_another_payload_is_refused(self, row: Row) -> None:
        rule = transitions.claim("g", "n", 2.0, 30.0)
        assert applied(rule, row) == unchanged(row, Claim(State.OTHER))

    @pytest.mark.parametrize(("row", "state"), [(DONE, State.DONE), (FAILED, State.FAILED)])
    def test_outcome_is_returned(self, row: Row, state: State) -> None:
        assert applied(self.rule, row) == unchanged(row, Claim(state, 7, outcome='"x"'))
        assert applied(self.rule, row, NOW + 99) == unchanged(row, Claim(state, 7, outcome='"x"'))

    def test_same_claim_again_is_claimed(self) -> None:
        assert applied(self.rule, RUNNING) == unchanged(RUNNING, Claim(State.CLAIMED, 7))

    def test_running_key_says_how_long(self) -> None:
        rule = transitions.claim("f", "other", 2.0, 30.0)
        assert applied(rule, RUNNING) == unchanged(RUNNING, Claim(State.RUNNING, 7, left=5.0))

    def test_lease_that_is_over_is_claimed_at_its_very_end(self) -> None:
        rule = transitions.claim("f", "other", 2.0, 30.0)
        assert applied(rule, RUNNING, NOW + 4.5).answer.state is State.RUNNING
        change = applied(rule, RUNNING, NOW + 5)
        token = 1_005_000_000
        row = {**RUNNING, "nonce": "other", "token": token, "until": NOW + 7}
        assert change == Change(row, Claim(State.CLAIMED, token), NOW + 37)

    def test_token_is_above_one_before(self) -> None:
        ahead = {**RUNNING, "token": 9_000_000_000_000}
        change = applied(transitions.claim("f", "other", 2.0, 30.0), ahead, NOW + 5)
        assert change.answer.token == 9_000_000_000_001

    def test_first_token_may_be_zero(self) -> None:
        assert applied(self.rule, None, 0.0).answer.token == 0


class TestEndOfAClaim:
    @staticmethod
    def rules() -> list[Any]:
        return [
            transitions.renew(7, 2.0, 30.0),
            transitions.finish(7, '"y"', 30.0, failed=False),
            transitions.finish(7, '"y"', 30.0, failed=True),
            transitions.release(7),
        ]

    @pytest.mark.parametrize("row", [None, {**RUNNING, "token": 8}])
    def test_claim_of_another_is_left_alone(self, row: Row | None) -> None:
        for rule in self.rules():
            assert applied(rule, row) == unchanged(row, answer=False)

    def test_lease_is_extended(self) -> None:
        change = applied(self.rules()[0], RUNNING)
        assert change == Change({**RUNNING, "until": NOW + 2}, answer=True, keep_until=NOW + 32)

    @pytest.mark.parametrize(("at", "state"), [(1, "done"), (2, "failed")])
    def test_outcome_is_stored(self, at: int, state: str) -> None:
        change = applied(self.rules()[at], RUNNING)
        row = {**RUNNING, "state": state, "outcome": '"y"'}
        assert change == Change(row, answer=True, keep_until=NOW + 30)

    @pytest.mark.parametrize(("at", "row"), [(1, DONE), (2, FAILED)])
    def test_second_end_of_the_same_claim_is_true(self, at: int, row: Row) -> None:
        assert applied(self.rules()[at], row) == unchanged(row, answer=True)
        other = {**row, "token": 8}
        assert applied(self.rules()[at], other) == unchanged(other, answer=False)

    @pytest.mark.parametrize(("at", "row"), [(1, FAILED), (2, DONE)])
    def test_another_end_is_false(self, at: int, row: Row) -> None:
        assert applied(self.rules()[at], row) == unchanged(row, answer=False)

    def test_released_key_is_free(self) -> None:
        assert applied(self.rules()[3], RUNNING) == Change(None, answer=True)
        for row in (DONE, FAILED):
            assert applied(self.rules()[0], row) == unchanged(row, answer=False)
            assert applied(self.rules()[3], row) == unchanged(row, answer=False)

    def test_only_failure_is_forgotten(self) -> None:
        rule = transitions.forget_failure()
        assert applied(rule, FAILED) == Change(None, answer=True)
        for row in (None, RUNNING, DONE):
            assert applied(rule, row) == unchanged(row, answer=False)

    @pytest.mark.parametrize(
        ("row", "runs"),
        [
            (None, False),
            (RUNNING, True),
            (DONE, False),
            ({**RUNNING, "until": NOW}, False),
            ({**RUNNING, "until": NOW - 1}, False),
        ],
    )
    def test_key_runs_until_its_lease_is_over(self, row: Row | None, runs: bool) -> None:
        assert applied(transitions.running(), row) == unchanged(row, runs)


class TestMessages:
    FIRST: ClassVar[Row] = {
        "deliveries": 1,
        "note": {},
        "first_failed_at": None,
        "last_failed_at": None,
        "parked_at": None,
        "revision": 0,
    }

    def test_deliveries_are_counted(self) -> None:
        rule = transitions.delivered(60.0)
        assert applied(rule, None) == Change(self.FIRST, 1, NOW + 60)
        assert applied(rule, None) == Change(self.FIRST, 1, NOW + 60)  # each row is its own
        assert applied(rule, STORED) == Change({**STORED, "deliveries": 3}, 3, NOW + 60)
        assert applied(rule, PARKED) == Change({**PARKED, "deliveries": 3}, 3)

    def test_delivery_that_does_not_count_is_taken_back(self) -> None:
        rule = transitions.undelivered(60.0)
        assert applied(rule, STORED) == Change({**STORED, "deliveries": 1}, None, NOW + 60)
        assert applied(rule, PARKED) == Change({**PARKED, "deliveries": 1}, None)
        once = {**STORED, "deliveries": 1}
        assert applied(rule, once) == Change({**STORED, "deliveries": 0}, None, NOW + 60)

    def test_nothing_is_kept_of_delivery_that_was_the_first(self) -> None:
        assert applied(transitions.undelivered(60.0), self.FIRST) == Change(None, None)

    @pytest.mark.parametrize("row", [None, {**STORED, "deliveries": 0}])
    def test_delivery_that_is_not_counted_is_not_taken_back(self, row: Row | None) -> None:
        assert applied(transitions.undelivered(60.0), row) == unchanged(row, None)

    def test_failure_is_noted(self) -> None:
        rule = transitions.note({"code": "B"}, 60.0, parked=False)
        new = {**self.FIRST, "deliveries": 0, "note": {"code": "B"}}
        new |= {"first_failed_at": NOW, "last_failed_at": NOW}
        assert applied(rule, None) == Change(new, None, NOW + 60)
        noted = {**STORED, "note": {"code": "B"}, "last_failed_at": NOW}
        assert applied(rule, STORED) == Change(noted, None, NOW + 60)
        assert applied(rule, PARKED) == Change({**noted, "parked_at": 4.0}, None)

    def test_parked_message_is_kept_for_good(self) -> None:
        rule = transitions.note({"code": "B"}, 60.0, parked=True)
        row = {**STORED, "note": {"code": "B"}, "last_failed_at": NOW}
        row |= {"parked_at": NOW, "revision": 4}
        assert applied(rule, STORED) == applied(rule, PARKED) == Change(row, None)

    def test_note_is_copy(self) -> None:
        content = {"code": "B"}
        change = applied(transitions.note(content, 60.0, parked=False), None)
        content["code"] = "C"
        assert change.row is not None
        assert change.row["note"] == {"code": "B"}

    def test_settled_message_is_gone(self) -> None:
        assert applied(transitions.settle(), STORED) == Change(None, None)
        assert applied(transitions.settle(), None) == Change(None, None, written=False)

    def test_parked_message_is_prepared_once(self) -> None:
        rule = transitions.prepare(3)
        change = applied(rule, PARKED)
        assert change == Change({**PARKED, "deliveries": 0, "revision": 4}, 4)
        for row in (None, STORED, change.row):
            assert applied(rule, row) == unchanged(row, None)

    def test_only_revision_that_was_seen_is_removed(self) -> None:
        assert applied(transitions.remove(3), PARKED) == Change(None, answer=True)
        for row in (None, {**PARKED, "revision": 4}):
            assert applied(transitions.remove(3), row) == unchanged(row, answer=False)

    def test_record_has_every_field(self) -> None:
        assert attrs.asdict(transitions.record("m", PARKED)) == {
            "id": "m",
            **PARKED,
            "due_at": None,
        }
        assert transitions.record("m", self.FIRST) == Record("m", 1)


class TestWaitingMessages:
    """Messages that wait to be tried again, and are handed over by a relay."""

    def test_postponed_message_is_due_after_its_seconds(self) -> None:
        rule = transitions.postpone({"code": "B"}, 9.0)
        row = {**WAITING, "note": {"code": "B"}, "last_failed_at": NOW, "revision": 4}
        assert applied(rule, STORED) == Change(row, None)
        new = {**row, "deliveries": 0, "first_failed_at": NOW, "revision": 1}
        assert applied(rule, None) == Change(new, None)

    @pytest.mark.parametrize("row", [WAITING, TAKEN, PARKED])
    def test_postponed_message_waits_whatever_it_did_before(self, row: Row) -> None:
        change = applied(transitions.postpone({"code": "B"}, 1.0), row)
        assert change.row is not None
        assert transitions.waits(change.row)
        assert (change.row["due_at"], change.row["revision"]) == (NOW + 1, 4)
        assert "handing" not in change.row
        assert change.keep_until is None

    def test_delivery_of_waiting_message_does_not_count(self) -> None:
        rule = transitions.arrived(60.0)
        assert applied(rule, WAITING) == unchanged(WAITING, 0)
        handing_ended = {**WAITING, "handing": False}
        assert applied(rule, handing_ended) == unchanged(handing_ended, 0)

    def test_delivery_of_message_that_was_handed_over_counts(self) -> None:
        change = applied(transitions.arrived(60.0), TAKEN)
        assert change == Change({**TAKEN, "deliveries": 3}, 3)

    def test_delivery_of_message_that_waits_for_nothing_counts(self) -> None:
        rule = transitions.arrived(60.0)
        assert applied(rule, None) == Change(TestMessages.FIRST, 1, NOW + 60)
        assert applied(rule, STORED) == Change({**STORED, "deliveries": 3}, 3, NOW + 60)

    def test_waiting_message_is_taken_once(self) -> None:
        rule = transitions.take(3)
        change = applied(rule, WAITING)
        assert change == Change({**TAKEN, "revision": 4}, 4)
        for row in (None, STORED, {**PARKED, "due_at": 5.0}, change.row):
            assert applied(rule, row) == unchanged(row, None)

    def test_sent_message_waits_no_longer(self) -> None:
        rule = transitions.sent(3, 60.0)
        for row in (TAKEN, WAITING):
            assert applied(rule, row) == Change(STORED, answer=True, keep_until=NOW + 60)

    @pytest.mark.parametrize(
        "row", [None, STORED, {**TAKEN, "parked_at": 4.0}, {**TAKEN, "revision": 4}]
    )
    def test_message_that_changed_meanwhile_is_not_sent(self, row: Row | None) -> None:
        assert applied(transitions.sent(3, 60.0), row) == unchanged(row, answer=False)

    def test_waiting_message_is_kept_for_good(self) -> None:
        counted = applied(transitions.delivered(60.0), WAITING)
        assert counted == Change({**WAITING, "deliveries": 3}, 3)
        noted = applied(transitions.note({}, 60.0, parked=False), WAITING)
        assert noted.keep_until is None
        assert applied(transitions.undelivered(60.0), WAITING).keep_until is None

    def test_parked_message_waits_no_longer(self) -> None:
        change = applied(transitions.note({"code": "A"}, 60.0, parked=True), TAKEN)
        row = {**PARKED, "last_failed_at": NOW, "parked_at": NOW, "revision": 4}
        assert change == Change(row, None)

    def test_record_says_when_it_is_due(self) -> None:
        assert transitions.record("m", TAKEN).due_at == NOW + 9


def test_changes_show_neither_rows_nor_answers() -> None:
    assert (
        repr(Change({"outcome": "s3cr3t"}, "s3cr3t", 5.0)) == "Change(keep_until=5.0, written=True)"
    )

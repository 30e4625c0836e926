"""What `explain` makes of whatever is pasted."""

from __future__ import annotations

import json

import pytest

from iii_resilience import Category, Execution, PolicyBook, Reason, RetryPolicy, use_policies
from iii_resilience.cli.error_explanation import explain


class TestReading:
    def test_code(self) -> None:
        assert explain("TIMEOUT").failure.category is Category.TRANSIENT

    def test_code_with_blanks_around_it(self) -> None:
        assert explain("  FORBIDDEN\n").failure.code == "FORBIDDEN"

    def test_wire_error_body(self) -> None:
        body = {"code": "function_not_found", "message": "Function a::b not found."}
        failure = explain(json.dumps(body), "a::b").failure
        assert (failure.category, failure.execution) == (
            Category.NOT_FOUND,
            Execution.NOT_EXECUTED,
        )

    def test_whole_frame_of_wire_protocol(self) -> None:
        frame = {"type": "invocationresult", "error": {"code": "FORBIDDEN", "message": "no"}}
        assert explain(json.dumps(frame)).failure.code == "FORBIDDEN"

    def test_frame_says_which_function_was_called(self) -> None:
        error = {"code": "FORBIDDEN", "message": "function 'a::b' not allowed"}
        frame = {"type": "invocationresult", "function_id": "a::b", "error": error}
        assert explain(json.dumps(frame)).failure.execution is Execution.NOT_EXECUTED

    def test_rpc_response(self) -> None:
        response = {
            "status": "error",
            "label": "RATE_LIMITED",
            "error": {"code": "RATE_LIMITED", "message": "retry after 4998ms"},
        }
        failure = explain(json.dumps(response)).failure
        assert (failure.system, failure.retry_after) == ("rpc", 4.998)

    def test_exception_as_it_was_printed(self) -> None:
        failure = explain("invocation_failed: FORBIDDEN: nested denied").failure
        assert failure.code == "invocation_failed"
        assert failure.inner is not None
        assert failure.inner.code == "FORBIDDEN"

    def test_text_with_colon_and_no_known_code_is_taken_as_code(self) -> None:
        assert not explain("note: x").failure.known

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "nothing to explain"),
            ("  \n", "nothing to explain"),
            ("{", "looks like JSON and is none"),
            ("[1]", "not an object"),
            ("{}", "neither code, nor error, nor status"),
            ('{"error": 3}', "neither code, nor error, nor status"),
            ('{"status": "ok", "result": 1}', "is not an error: its status is ok"),
            ("[" * 5000, "looks like JSON and is none"),
        ],
    )
    def test_what_cannot_be_explained_is_said_plainly(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            explain(text)


class TestNearest:
    @pytest.mark.parametrize(
        ("misspelt", "meant"),
        [
            ("FORBIDEN", "FORBIDDEN"),
            ("Function_Not_Found", "function_not_found"),
            ("invocation-stopped", "invocation_stopped"),
            ("RATELIMITED", "RATE_LIMITED"),
        ],
    )
    def test_misspelt_code_is_answered_with_nearest_known_ones(
        self, misspelt: str, meant: str
    ) -> None:
        assert meant in explain(misspelt).nearest

    def test_known_code_needs_none(self) -> None:
        assert explain("TIMEOUT").nearest == ()


class TestWhy:
    def test_it_names_meaning_and_no_notes_of_ours(self) -> None:
        (line, *_) = explain("invocation_stopped").why
        assert line.startswith("invocation_stopped: the call in flight was halted")

    def test_it_says_that_message_changed_category(self) -> None:
        why = "\n".join(explain("invocation_failed: TIMEOUT: invocation timed out").why)
        assert "its table says permanent, its message says transient" in why
        assert "inside: TIMEOUT (transient)" in why

    def test_it_says_what_a_message_does_not_prove(self) -> None:
        body = json.dumps({"code": "FORBIDDEN", "message": "function 'x::y' not allowed"})
        assert any("does not prove" in line for line in explain(body).why)
        assert not any("does not prove" in line for line in explain(body, "x::y").why)

    def test_it_says_that_unknown_code_is_permanent(self) -> None:
        assert "stands in no table" in explain("NO_SUCH_CODE_AT_ALL").why[0]


class TestOutlook:
    def test_transient_failure_is_retried_only_if_idempotent(self) -> None:
        without, with_ = explain("TIMEOUT").outlooks
        assert (without.decision.reason, without.action) == (Reason.NOT_IDEMPOTENT, "enqueue")
        assert (with_.decision.reason, with_.most, with_.attempts) == (Reason.RETRIED, 0.2, 4)

    @pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
    def test_never_is_never(self, code: str) -> None:
        assert {o.decision.reason for o in explain(code).outlooks} == {Reason.NOT_RETRYABLE}

    def test_it_follows_default_book(self) -> None:
        before = use_policies(PolicyBook({"default": RetryPolicy(attempts=1)}))
        try:
            assert explain("TIMEOUT").outlooks[1].decision.reason is Reason.EXHAUSTED
        finally:
            use_policies(before)

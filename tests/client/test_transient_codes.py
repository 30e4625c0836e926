"""Each documented transient code, met once: the retry succeeds, if the call may be retried."""

from __future__ import annotations

from typing import Any

import pytest
from support.real_sdk import InvocationError

from iii_resilience import Category, Reason, report_for
from iii_resilience.client.resilient import Resilient
from iii_resilience.core.codes.lookup import ALL
from iii_resilience.testing import AnswerError, LoopbackEngine

PLAIN = [
    AnswerError(row.code, "it did not work this time")
    for row in ALL
    if row.category is Category.TRANSIENT
    and row.system == "iii"
    and row.source.startswith("iii error")
]
WORDED = [  # what makes them transient stands in the message
    AnswerError("http_error", "HTTP 503 Service Unavailable"),
    AnswerError("http_error", "HTTP 429 Too Many Requests"),
    AnswerError("invocation_failed", "RATE_LIMITED: retry after 5ms"),
    AnswerError("invocation_failed", "INVOKE_TIMEOUT: the function took too long"),
]


def test_documents_have_transient_codes() -> None:
    assert {"invocation_stopped", "timeout", "TIMEOUT", "http_request_failed"} <= {
        answer.code for answer in PLAIN
    }


@pytest.mark.parametrize("answer", PLAIN + WORDED, ids=lambda a: f"{a.code}-{a.message[:12]}")
def test_it_is_met_once_and_retry_succeeds(
    engine: LoopbackEngine, target: Any, caller: Resilient, answer: AnswerError
) -> None:
    target.register_function("t::flaky", lambda data: "done")
    engine.wait_registered("t::flaky")
    engine.inject("t::flaky", answer)
    assert caller.trigger({"function_id": "t::flaky"}, idempotent=True) == "done"
    assert len(engine.calls("t::flaky")) == 2
    engine.inject("t::flaky", answer)
    with pytest.raises(InvocationError) as caught:
        caller.trigger({"function_id": "t::flaky"})
    report = report_for(caught.value)
    assert report is not None
    assert report.reason is Reason.NOT_IDEMPOTENT
    assert len(engine.calls("t::flaky")) == 3

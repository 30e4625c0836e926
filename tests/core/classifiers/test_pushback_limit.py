"""A server's pushback without end is cut to the longest time there is."""

from __future__ import annotations

import pytest

from iii_resilience import TransientError, classify
from iii_resilience.core.classifiers.text_patterns import retry_after_ms, retry_after_words
from iii_resilience.core.system_clock import LONGEST_SECONDS


@pytest.mark.parametrize("milliseconds", [1e13, 10**15, 1e300, 10**400])
def test_structured_pushback_is_cut(milliseconds: float) -> None:
    assert retry_after_ms(milliseconds) == LONGEST_SECONDS
    body = {"code": "E42", "type": "transient", "retry_after_ms": milliseconds}
    assert classify(body).retry_after == LONGEST_SECONDS


def test_pushback_in_words_is_cut() -> None:
    assert retry_after_words("retry after 999999999999999ms") == LONGEST_SECONDS
    assert retry_after_words(f"retry after {'9' * 30}ms") == LONGEST_SECONDS
    assert retry_after_words("retry after 1500ms") == 1.5


@pytest.mark.parametrize("seconds", [1e12, 1e300])
def test_pushback_of_rpc_error_is_cut(seconds: float) -> None:
    from iii_resilience import RpcError

    error = RpcError("RATE_LIMITED", "m", retry_after=seconds)
    assert classify(error).retry_after == LONGEST_SECONDS


@pytest.mark.parametrize("seconds", [1e12, 1e306])
def test_pushback_of_handler_error_is_cut(seconds: float) -> None:
    assert classify(TransientError("busy", retry_after=seconds)).retry_after == LONGEST_SECONDS

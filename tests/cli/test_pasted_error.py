"""What is pasted at night, and what `explain` makes of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from iii_resilience import Backoff, Category, hint_for, iii_retry
from iii_resilience.cli.app import app
from iii_resilience.cli.error_explanation import explain
from iii_resilience.cli.terminal_text import plain
from iii_resilience.core.codes.lookup import ALL

S102 = '{"type":"transient","code":"S102","message":"image failed","retryable":true}'
TRACEBACK = f"""Traceback (most recent call last):
  File "/app/x.py", line 3, in f
    worker.trigger(request)
iii.errors.InvocationError: invocation_failed: handler error: {S102}
iii-resilience: 4 attempts in 3.21 s; last: invocation_failed (transient, executed); gave up: x

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/app/y.py", line 30, in g
shop.errors.CheckoutError: failed for order 3
"""

PASTED = {
    "printed": ("iii.errors.InvocationError: TIMEOUT: timed out after 30000ms", "TIMEOUT"),
    "printed, its own name": ("InvocationError: FORBIDDEN: no", "FORBIDDEN"),
    "printed, unknown code": ("iii.errors.InvocationError: E42: no", "E42"),
    "code and words": ("TIMEOUT: timed out", "TIMEOUT"),
    "traceback": (TRACEBACK, "invocation_failed"),
    "own record": (
        "WARNING iii_resilience orders::get: attempt 1 failed with TIMEOUT (transient): retry",
        "TIMEOUT",
    ),
    "own record of a status": (
        "WARNING shop.fetch: attempt 3 failed with HTTP 503 (transient): give up (exhausted)",
        "HTTP 503",
    ),
    "own note": (
        "iii-resilience: 4 attempts in 3.21 s; last: CIRCUIT_OPEN (transient, not_executed)",
        "CIRCUIT_OPEN",
    ),
    "compose": (
        "api-1  | 2026-01-02T03:04Z ERROR iii.InvocationError: function_not_found: Function a::b",
        "function_not_found",
    ),
    "docker's file": (
        json.dumps({"log": "iii.errors.InvocationError: FORBIDDEN: no\n", "stream": "stderr"}),
        "FORBIDDEN",
    ),
    "docker's file, lines": (
        '{"log":"started\\n","stream":"stdout"}\n{"log":"TIMEOUT: words\\n","stream":"stderr"}',
        "TIMEOUT",
    ),
    "structured record": (
        json.dumps({"level": "error", "msg": "call failed", "exc_info": TRACEBACK}),
        "invocation_failed",
    ),
    "json behind words": (
        'ERROR answer was {"error": {"code": "FORBIDDEN", "message": "no"}}',
        "FORBIDDEN",
    ),
    "coloured": ("\x1b[31mTIMEOUT\x1b[0m: words", "TIMEOUT"),
    "several": ("TIMEOUT: one\nthen\nFORBIDDEN: two\nend of log", "FORBIDDEN"),
    "old sdk": ("{'code': 'FORBIDDEN', 'message': 'no'}", "FORBIDDEN"),
    "library": ("httpx.ConnectError: [Errno 111] Connection refused", "httpx.ConnectError"),
    "library without words": ("Traceback ...\nhttpx.ReadTimeout", "httpx.ReadTimeout"),
    "httpx status": (
        "httpx.HTTPStatusError: Server error '503 Service Unavailable' for url 'http://x'",
        "HTTP 503",
    ),
    "requests status": (
        "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: http://x",
        "HTTP 404",
    ),
    "urllib status": ("urllib.error.HTTPError: HTTP Error 429: Too Many", "HTTP 429"),
    "built in": (
        "ConnectionResetError: [Errno 104] Connection reset by peer",
        "ConnectionResetError",
    ),
    "sqlalchemy": (
        "sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) server closed the connection",
        "sqlalchemy.exc.OperationalError",
    ),
    "driver": (
        "Traceback ...\npsycopg2.errors.SerializationFailure: could not serialize access",
        "psycopg2.errors.SerializationFailure",
    ),
    "own record of a handler": (
        "WARNING t::f: the handler failed with httpx.ReadTimeout (transient) after 0.1 s",
        "httpx.ReadTimeout",
    ),
    "own record of a parked message": (
        "WARNING t::f: a message is parked: psycopg.errors.UniqueViolation (payload)",
        "psycopg.errors.UniqueViolation",
    ),
    "own record of a class of the user's": (
        "orders::save: attempt 4 failed with shop.BusyError (transient): give up (exhausted)",
        "shop.BusyError",
    ),
    "own record as json": (
        json.dumps({"msg": "a call has failed", "iii_code": "shop.Busy", "iii_category": "auth"}),
        "shop.Busy",
    ),
}


@pytest.mark.parametrize("case", PASTED)
def test_pasted_text_is_understood(case: str) -> None:
    text, code = PASTED[case]
    failure = explain(text).failure
    assert failure.code == code
    assert failure.known is (case != "printed, unknown code")


@pytest.mark.parametrize("category", list(Category))
def test_record_says_category_of_unknown_class(category: Category) -> None:
    failure = explain(f"f: attempt 1 failed with shop.BusyError ({category}): retry").failure
    assert (failure.code, failure.category, failure.origin) == (
        "shop.BusyError",
        category,
        "library",
    )


def test_cause_in_traceback_is_read() -> None:
    failure = explain(TRACEBACK).failure
    assert failure.inner is not None
    assert (failure.inner.code, failure.category) == ("S102", Category.TRANSIENT)


def test_real_traceback_of_real_process() -> None:
    script = (
        "import httpx\nfrom iii_resilience import iii_retry, Backoff\n"
        "@iii_retry(idempotent=True, attempts=2, backoff=Backoff(base=0, cap=1))\n"
        "def f(): raise httpx.ConnectError('x')\nf()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert explain(ran.stderr).failure.code == "httpx.ConnectError"


def test_text_without_error_is_refused() -> None:
    with pytest.raises(ValueError, match="no error was found in this text"):
        explain("started\nall is well: yes\n")


def test_unknown_exception_is_named() -> None:
    failure = explain("Traceback ...\nshop.errors.CheckoutError: order 3").failure
    assert (failure.code, failure.known) == ("CheckoutError", False)


@pytest.mark.parametrize(
    "text",
    ["\x1b]0;title\x07TIMEOUT: x", "\x9b31mTIMEOUT: \x1b[2J", "TIM\u202eEOUT\r: x", "\x1bcTIMEOUT"],
)
def test_escape_sequences_never_reach_terminal(text: str) -> None:
    output = CliRunner().invoke(app, ["explain", text]).output
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", output)
    assert "TIMEOUT" in output


def test_plain_keeps_lines_and_tabs() -> None:
    assert plain("a\tb\r\nc\x00\x1b[1;31md\x1b]8;;http://x\x1b\\e") == "a\tb\ncde"


def test_discover_hint_names_namespaces() -> None:
    class InvocationError(Exception):
        code = "function_not_found"
        message = (
            "Function a::b not found in namespace x. "
            "It is registered in namespace(s): default, shop."
        )

    @iii_retry(idempotent=True, backoff=Backoff(base=0, cap=1))
    def call() -> None:
        raise InvocationError

    with pytest.raises(InvocationError) as caught:
        call()
    hint = hint_for(caught.value)
    assert hint is not None
    assert hint.action == "discover"
    assert hint.remedy.endswith("; it is registered in namespace(s): default, shop")


def test_codes_fit_terminal_and_name_no_notes() -> None:
    output = CliRunner().invoke(app, ["codes"]).output
    assert max(map(len, output.splitlines())) <= 100
    assert all(row.code in output for row in ALL)
    for arguments in (["codes", "--json"], *(["explain", row.code] for row in ALL[::5])):
        printed = CliRunner().invoke(app, arguments).output
        assert not re.search(r"seed [0-9]|peers|iii[-]errors|engine[-]obs|sdk[-]mat", printed)

"""`@iii_retry` around three HTTP clients: the scenarios of a public conformance suite, and a batch.

The scenarios are those of Google's storage retry conformance tests (googleapis/conformance-tests,
storage/v1/retry_tests.json), without what is particular to storage.
"""

from __future__ import annotations

import itertools
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import requests
from support.flaky_http import BODY, FlakyServer, closed_port, flaky_server
from support.paths import DOCS

from iii_resilience import Backoff, iii_retry, report_for

QUICK = Backoff(base=0.001, cap=3.0, throttled_base=0.001)
PATIENT = 30.0  # seconds, of a client whose server answers
HASTY = 1.0  # of one whose server does not


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def server() -> Iterator[FlakyServer]:
    with flaky_server() as one:
        yield one


def with_httpx(url: str, timeout: float = PATIENT) -> bytes:
    return httpx.get(url, timeout=timeout).raise_for_status().content


def with_requests(url: str, timeout: float = PATIENT) -> bytes:
    with requests.get(url, timeout=timeout) as response:
        response.raise_for_status()
        return response.content


def with_urllib(url: str, timeout: float = PATIENT) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        error.close()
        raise


CLIENTS = {"httpx": with_httpx, "requests": with_requests, "urllib": with_urllib}

# Idempotent, what the server does before it answers 200, whether the call succeeds, its requests.
SCENARIOS: dict[str, tuple[bool, tuple[int | str, ...], bool, int]] = {
    "503 twice": (True, (503, 503), True, 3),
    "reset twice": (True, ("reset", "reset"), True, 3),
    "reset, then 503": (True, ("reset", 503), True, 3),
    "408": (True, (408,), True, 2),
    "429": (True, (429,), True, 2),
    "500, 502, 504": (True, (500, 502, 504), True, 4),
    "no answer": (True, ("close", "close"), True, 3),
    "slow": (True, ("slow",), True, 2),
    "body breaks off": (True, ("broken", "broken"), True, 3),
    "body breaks off late": (True, ("broken-late",), True, 2),
    "not idempotent: 503": (False, (503,), False, 1),
    "not idempotent: reset": (False, ("reset",), False, 1),
    "not idempotent: body breaks off": (False, ("broken",), False, 1),
    "400": (True, (400,), False, 1),
    "401": (True, (401,), False, 1),
    "404": (True, (404,), False, 1),
    "503, then 400": (True, (503, 400), False, 2),
    "reset, then 401": (True, ("reset", 401), False, 2),
    "501": (True, (501,), False, 1),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_storage_conformance(server: FlakyServer, client: str, scenario: str) -> None:
    idempotent, script, succeeds, requests_made = SCENARIOS[scenario]
    path = f"/{client}/{scenario.replace(' ', '-').replace(':', '')}"
    url = server.says(path, *script)
    waits = itertools.chain([HASTY] if scenario == "slow" else [], itertools.repeat(PATIENT))

    @iii_retry(idempotent=idempotent, backoff=QUICK, budget=None)
    def fetch(url: str) -> bytes:
        return CLIENTS[client](url, next(waits))

    if succeeds:
        assert fetch(url) in {b"ok", BODY}
    else:
        with pytest.raises(Exception) as caught:
            fetch(url)
        report = report_for(caught.value)
        assert report is not None
        assert len(report.attempts) == requests_made
        assert all(attempt.failure.origin == "library" for attempt in report.attempts)
    assert server.requests.count(path) == requests_made


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(server: FlakyServer, client: str, form: str) -> None:
    # A date counts from the answer's own Date, which http.server sends as it is now.
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    path = f"/{client}/after/{form}"
    url = server.says(path, (503, {"Retry-After": "1" if form == "seconds" else date}))
    started = time.monotonic()
    fetch = iii_retry(idempotent=True, backoff=QUICK)(CLIENTS[client])
    assert fetch(url) == b"ok"
    assert time.monotonic() - started >= 0.9


@pytest.mark.parametrize("client", CLIENTS)
def test_refused_connection_proves_nothing_outside(client: str) -> None:
    @iii_retry(idempotent=True, attempts=2, backoff=QUICK)
    def effect_then_call(url: str) -> None:
        done.append(url)  # ran before the connection was refused
        CLIENTS[client](url)

    done: list[str] = []
    with pytest.raises(Exception) as caught:
        effect_then_call(f"http://127.0.0.1:{closed_port()}/")
    report = report_for(caught.value)
    assert report is not None
    assert len(done) == len(report.attempts) == 2
    assert [attempt.failure.execution for attempt in report.attempts] == ["not_executed"] * 2
    assert report.execution == "maybe_executed"


def test_nightly_batch_repairs_all_it_can(server: FlakyServer) -> None:
    """The batch program of the documentation, on its worst night."""
    client, hasty = httpx.Client(timeout=PATIENT), {server.url + "/batch/slow"}

    @iii_retry(idempotent=True, backoff=QUICK, budget=None)
    def fetch(url: str) -> bytes:
        timeout = HASTY if url in hasty else PATIENT
        hasty.discard(url)  # for its first request
        return client.get(url, timeout=timeout).raise_for_status().content

    nights: dict[str, tuple[object, ...]] = {
        "reset": ("reset",),
        "no-answer": ("close",),
        "unavailable": ((503, {"Retry-After": "1"}),),
        "slow": ("slow",),
        "too-many": (429, 429),
        "broken": ("broken",),
        "gateway": (502, 504),
        "garbage": ("garbage",),
        "missing": (404,),
        "denied": (403,),
        "fine": (),
    }
    urls = {name: server.says(f"/batch/{name}", *script) for name, script in nights.items()}
    urls["refused"] = f"http://127.0.0.1:{closed_port()}/"
    done, failed = _run_batch(urls, fetch)
    client.close()
    assert set(done) == set(nights) - {"missing", "denied"}
    assert failed == {
        "missing": ("HTTP 404", "not_retryable", 1),
        "denied": ("HTTP 403", "not_retryable", 1),
        "refused": ("httpx.ConnectError", "exhausted", 4),
    }


def test_batch_program_of_documents(server: FlakyServer) -> None:
    """The program of docs/exceptions.md as it stands there, but for the timeout."""
    text = (DOCS / "exceptions.md").read_text("utf-8")
    program: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], program)
    port = closed_port()
    refused = f"http://127.0.0.1:{port}/"
    urls = {
        "refused": refused,
        "reset": server.says("/docs/reset", "reset"),
        "unavailable": server.says("/docs/unavailable", (503, {"Retry-After": "1"})),
        "slow": server.says("/docs/slow", "slow"),
        "missing": server.says("/docs/missing", 404),
        "fine": server.says("/docs/fine"),
    }
    made: dict[str, list[float]] = {}

    def before(request: httpx.Request) -> None:
        url = str(request.url)
        made.setdefault(url, []).append(time.monotonic())
        if url == urls["slow"] and len(made[url]) == 1:
            request.extensions["timeout"] = httpx.Timeout(HASTY).as_dict()
        if url == refused and len(made[url]) == 2:  # what was down is up again
            stack.enter_context(flaky_server(port))

    with ExitStack() as stack, program["client"] as client:
        client.timeout, client.event_hooks = PATIENT, {"request": [before]}
        done, failed = program["batch"](urls.values())
    assert failed == {urls["missing"]: ("HTTP 404", "not_retryable", "discover")}
    assert set(done) == set(urls.values()) - {urls["missing"]}
    requests_made = {name: len(made[url]) for name, url in urls.items()}
    twice = dict.fromkeys(("refused", "reset", "unavailable", "slow"), 2)
    assert requests_made == {**twice, "missing": 1, "fine": 1}
    first, second = made[urls["unavailable"]]
    assert second - first >= 1.0


def _run_batch(
    urls: dict[str, str], fetch: Callable[[str], bytes]
) -> tuple[list[str], dict[str, tuple[str, str, int]]]:
    done: list[str] = []
    failed: dict[str, tuple[str, str, int]] = {}
    for name, url in urls.items():
        try:
            fetch(url)
        except httpx.HTTPError as error:
            report = report_for(error)
            assert report is not None
            last = report.attempts[-1].failure
            failed[name] = (last.code, report.reason.value, len(report.attempts))
        else:
            done.append(name)
    return done, failed

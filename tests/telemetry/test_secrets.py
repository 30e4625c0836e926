"""What passes through is told nowhere: not in logs, spans, metrics, notes, hints, reprs or output.

A marker stands for everything that may be secret: payload, arguments, metadata, headers, token,
idempotency key, and what a handler says when it fails. A traceback of a user's own exception is
the user's; what this library adds to it, and everything else it tells, is looked through here.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import attrs
import iii
import pytest
import tenacity
from support.engine_fixtures import QUICK
from support.telemetry_fixtures import Seen, attributes
from support.waiting import until
from typer.testing import CliRunner

from iii_resilience import (
    Enqueue,
    Enqueued,
    Reroute,
    check_rpc,
    hint_for,
    iii_retry,
    report_for,
    resilient,
    retrying,
)
from iii_resilience.cli.app import app
from iii_resilience.client.resilient import Resilient
from iii_resilience.config.engine_source import _subscribe
from iii_resilience.config.watch import Watch
from iii_resilience.core.observers import where
from iii_resilience.handling import (
    PayloadError,
    PermanentError,
    TransientError,
    consumer,
    idempotent,
    reports_errors,
)
from iii_resilience.handling.decorators.lease_renewal import LeaseRenewer
from iii_resilience.handling.registration.drain_signal import drain_at
from iii_resilience.handling.registration.keeper import Keeper
from iii_resilience.stores import MemoryStore, SqliteStore
from iii_resilience.testing import AnswerError, CutCaller, CutTarget, LoopbackEngine

MARKER = "s3cr3t4111"
SECRET: dict[str, Any] = {"card": MARKER, "n": 1, MARKER: [MARKER]}
STOPPED = AnswerError("invocation_stopped", MARKER)
FAILING = AnswerError("invocation_failed", f"handler error: {MARKER}", MARKER)


@attrs.define
class Lookout:
    """Looks through everything that is told."""

    seen: Seen
    log: pytest.LogCaptureFixture
    found: list[str] = attrs.field(factory=list)
    looked: set[str] = attrs.field(factory=set)
    before: list[object] = attrs.field(factory=list)

    def text(self, where: str, *texts: object) -> None:
        """Look through some texts."""
        self.looked.add(where)
        self.found += [f"{where}: {text}" for text in map(str, texts) if MARKER in text]

    def error(self, error: BaseException) -> None:
        """What hangs on an exception that a caller got."""
        notes = getattr(error, "__notes__", [])
        self.text("note", *notes)
        self.text("report", repr(report_for(error)))
        self.text("hint", repr(hint_for(error)))

    def objects(self, *_: Any) -> None:
        """The repr of every object of the library that is alive now."""
        ours = classes(len(sys.modules))
        since = [thing for thing in gc.get_objects() if type(thing) in ours]
        for thing in (*self.before, *since):
            with suppress(ReferenceError):
                self.text("repr", f"{type(thing).__qualname__}: {thing!r}")

    def everything(self) -> None:
        """What was logged, traced and measured."""
        formatter = logging.Formatter("%(message)s")  # with traceback, if there is one
        phases: list[Literal["setup", "call"]] = ["setup", "call"]
        for record in [record for phase in phases for record in self.log.get_records(phase)]:
            if record.name.startswith("iii_resilience"):
                self.text("log", formatter.format(record), vars(record))
        for span in self.seen.spans():
            self.text(
                "span",
                span.name,
                attributes(span),
                [(event.name, event.attributes) for event in span.events],
                span.status.description,
                [connection.attributes for connection in span.links],
            )
        for metric in self.seen.metrics().values():
            self.text("metric", metric)
        self.objects()


@cache
def classes(_: int) -> frozenset[type]:
    """The library's classes; exceptions say what they say, to whoever gets them."""
    return frozenset(
        kind
        for name, module in list(sys.modules.items())
        if name.startswith("iii_resilience") and not name.startswith("iii_resilience.testing")
        for kind in vars(module).values()
        if isinstance(kind, type)
        and kind.__module__.startswith("iii_resilience")
        and not issubclass(kind, (BaseException, Enum))
    )


@pytest.fixture(scope="module")
def before() -> list[object]:
    """What the library has alive before these tests: one process has half a million objects.

    Those are frozen, so that `gc.get_objects` returns what has been made since.
    """
    gc.unfreeze()
    gc.collect()
    ours = classes(len(sys.modules))
    found = [thing for thing in gc.get_objects() if type(thing) in ours]
    gc.freeze()
    return found


@pytest.fixture
def lookout(
    seen: Seen, caplog: pytest.LogCaptureFixture, before: list[object]
) -> Iterator[Lookout]:
    caplog.set_level(logging.DEBUG, logger="iii_resilience")
    made = Lookout(seen, caplog, before=before)
    # Whoever looks at everything keeps it alive for a moment; what is collected in that moment is
    # collected in another order than it was made, and loops that the SDK never closes complain.
    gc.disable()
    yield made
    made.everything()
    gc.enable()
    assert made.found == []


@pytest.fixture
def caller(engine: LoopbackEngine, lookout: Lookout) -> Iterator[Resilient]:
    options = iii.InitOptions(
        worker_name="caller", otel={"enabled": False}, headers={"authorization": MARKER}
    )
    made = resilient(iii.register_worker(engine.url, options), policies=QUICK)
    yield made
    made.shutdown()


@pytest.fixture
def served(engine: LoopbackEngine, target: Any, lookout: Lookout) -> Resilient:
    worker = resilient(target)

    def fails(data: Any, metadata: Any = None) -> None:
        lookout.objects()  # with everything that a call in progress has
        try:
            raise KeyError(data[MARKER])
        except KeyError as error:
            raise ValueError(f"cannot charge {data}") from error

    def structured(data: Any) -> None:
        raise PayloadError(f"cannot charge {data}", code="NO_CHARGE")

    def unsendable(data: Any) -> Any:
        return {"x": data, "bad": float("nan")}

    def leaves(data: Any) -> None:
        raise SystemExit(str(data))

    for name, handler in {
        "fails": fails,
        "structured": structured,
        "unsendable": unsendable,
        "leaves": leaves,
        "reported": reports_errors(fails),
        "once": idempotent(MemoryStore())(fails),
        "f": lambda data: "done",
        "other": lambda data: "done",
    }.items():
        worker.register_function(f"t::{name}", handler)
        engine.wait_registered(f"t::{name}")
    return worker


def in_a_coroutine(caller: Resilient, request: Any, **options: Any) -> Any:
    return asyncio.run(caller.trigger_async(request, **options))


def plainly(caller: Resilient, request: Any, **options: Any) -> Any:
    return caller.trigger(request, **options)


ways = pytest.mark.parametrize("way", [plainly, in_a_coroutine])
Way = Callable[..., Any]


def fail(lookout: Lookout, way: Way, caller: Resilient, function_id: str, **more: Any) -> Any:
    """One call with secrets everywhere; how it ended."""
    action = more.pop("action", None)
    request: dict[str, Any] = {
        "function_id": function_id,
        "payload": SECRET,
        "metadata": {"token": MARKER},
    }
    if action is not None:
        request["action"] = action
    options = {"idempotent": True, "idempotency_key": MARKER, **more}
    try:
        return way(caller, request, **options)
    except Exception as error:
        lookout.error(error)
        lookout.objects()
        return error


@ways
@pytest.mark.parametrize(
    "name", ["fails", "structured", "unsendable", "leaves", "reported", "once", "missing"]
)
def test_handler_that_fails_with_payload_in_its_words(
    name: str, way: Way, caller: Resilient, served: Resilient, lookout: Lookout
) -> None:
    policy = QUICK.replace(ready_timeout=0.1)
    error = fail(lookout, way, caller, f"t::{name}", policy=policy)
    assert isinstance(error, Exception)


@ways
@pytest.mark.parametrize(
    "fault",
    [
        STOPPED,
        FAILING,
        AnswerError("http_error", f"http status 503: {MARKER}"),
        AnswerError("NO_SUCH_CODE", MARKER),
        AnswerError("FORBIDDEN", MARKER),
        AnswerError("RATE_LIMITED", f"retry after 4998ms {MARKER}"),
        CutCaller(),
        CutTarget(),
    ],
    ids=lambda fault: getattr(fault, "code", type(fault).__name__),
)
def test_attempt_that_fails_in_engine(
    fault: Any,
    way: Way,
    caller: Resilient,
    served: Resilient,
    engine: LoopbackEngine,
    lookout: Lookout,
) -> None:
    engine.inject("t::f", fault)
    fail(lookout, way, caller, "t::f")
    engine.inject("t::f", fault, times=None)
    fail(lookout, way, caller, "t::f", policy=QUICK.replace(attempts=2, ready_timeout=0.5))
    assert "span" not in lookout.looked
    lookout.everything()
    assert lookout.looked >= {"span", "log", "metric", "repr", "note", "report", "hint"}


@ways
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("fallback", [Enqueue("q"), Reroute("t::other"), Reroute("t::fails")])
def test_call_that_is_handed_over(
    fallback: Enqueue | Reroute,
    takes: bool,
    way: Way,
    caller: Resilient,
    served: Resilient,
    engine: LoopbackEngine,
    lookout: Lookout,
) -> None:
    engine.define_queue("q", max_retries=0, backoff_ms=1)
    engine.inject("t::f", STOPPED, times=2)
    if not takes:
        engine.inject("engine::queue::enqueue", FAILING)
        engine.inject("t::other", FAILING)
    policy = QUICK.replace(attempts=2, fallback=fallback)
    result = fail(lookout, way, caller, "t::f", policy=policy, accept_enqueued=True)
    lookout.text("repr", repr(result) if isinstance(result, Enqueued) else "")
    engine.wait_queue_idle("q")


@ways
def test_void_and_enqueue(
    way: Way, caller: Resilient, served: Resilient, engine: LoopbackEngine, lookout: Lookout
) -> None:
    engine.define_queue("q", max_retries=1, backoff_ms=1)
    fail(lookout, way, caller, "t::fails", action={"type": "void"})
    fail(lookout, way, caller, "t::fails", action={"type": "enqueue", "queue": "q"})
    engine.inject("engine::queue::enqueue", FAILING)
    fail(lookout, way, caller, "t::fails", action={"type": "enqueue", "queue": "q"})
    engine.wait_queue_idle("q")


@ways
@pytest.mark.parametrize(
    "request_",
    [
        {"payload": {"card": MARKER, "bad": float("nan")}},
        {"payload": {MARKER: {1, 2}}},
        {"payload": "\ud800" + MARKER},
        {"payload": MARKER, "metadata": {"x": float("inf"), "token": MARKER}},
        {"payload": MARKER, "action": MARKER},
        {"payload": MARKER, "namespace": {MARKER: 1}},
        {"payload": MARKER, "timeout_ms": MARKER},
        {"payload": MARKER * 2_000_000},
        {"payload": {"x": MARKER}, "function_id": {MARKER: 1}},
    ],
    ids="-".join,
)
def test_request_that_is_refused(
    request_: dict[str, Any], way: Way, caller: Resilient, lookout: Lookout
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        way(
            caller,
            {"function_id": "t::f", **request_},
            policy=QUICK.replace(max_payload_bytes=1 << 20),
        )
    lookout.error(caught.value)
    if request_["payload"] != {MARKER: {1, 2}}:  # the path to what is wrong holds the keys
        lookout.text("message", caught.value)


@pytest.mark.parametrize("key", [MARKER * 100, "", 5, [MARKER]])
def test_idempotency_key_that_is_none(key: Any, caller: Resilient, lookout: Lookout) -> None:
    with pytest.raises(ValueError, match="idempotency_key") as caught:
        plainly(caller, {"function_id": "t::f", "payload": SECRET}, idempotency_key=key)
    lookout.error(caught.value)
    lookout.text("message", caught.value)


def broken(kind: str, *secrets: Any) -> Any:
    if kind == "rpc":
        about = {"code": "RATE_LIMITED", "message": MARKER, "stack": MARKER}
        return check_rpc({"status": "error", "label": "RATE_LIMITED", "error": about})
    if kind == "again":
        raise tenacity.TryAgain(MARKER) from ValueError(MARKER)
    if kind == "group":
        raise ExceptionGroup(MARKER, [ConnectionError(MARKER), ValueError(MARKER)])
    if kind == "sdk":
        raise iii.InvocationError("TIMEOUT", MARKER, function_id="f", stacktrace=MARKER)
    raise type(kind, (ConnectionError,), {})(MARKER)


@pytest.mark.parametrize("kind", ["rpc", "again", "group", "sdk", "OwnError"])
def test_users_own_code(kind: str, lookout: Lookout) -> None:
    @iii_retry(idempotent=True, policy=QUICK)
    def function(payload: Any, *, token: str) -> None:
        lookout.objects()
        broken(kind, payload, token)

    @iii_retry(idempotent=True, policy=QUICK)
    async def coroutine(payload: Any, *, token: str) -> None:
        broken(kind, payload, token)

    def loop(payload: Any, *, token: str) -> None:
        for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                broken(kind, payload, token)
            lookout.text("repr", repr(attempt))

    async def loop_async(payload: Any, *, token: str) -> None:
        async for attempt in retrying(idempotent=True, policy=QUICK):
            with attempt:
                broken(kind, payload, token)

    for made in (function, coroutine, loop, loop_async):
        with pytest.raises(Exception, match=MARKER) as caught:
            finish(made(SECRET, token=MARKER))
        lookout.error(caught.value)
        lookout.objects()


def finish(called: Any) -> None:
    if asyncio.iscoroutine(called):
        asyncio.run(called)


class TestQueue:
    """Consumers, and what an operator sees of what they could not handle."""

    @pytest.fixture
    def parking(self, tmp_path: Path) -> Path:
        return tmp_path / "parking.db"

    @pytest.fixture(autouse=True)
    def failures(
        self,
        parking: Path,
        engine: LoopbackEngine,
        target: Any,
        caller: Resilient,
        lookout: Lookout,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[None]:
        """Dead letters and parked messages, with secrets in all of them."""
        monkeypatch.setenv("III_TOKEN", MARKER)
        store = SqliteStore(parking)
        errors = iter([PermanentError(MARKER, code="DECLINED"), ValueError(MARKER)])

        @consumer(parking=store, key="card", queue="q")
        @idempotent(store, key="card")
        def parks(data: Any) -> None:
            lookout.objects()
            raise next(errors, None) or TransientError(MARKER, code="BUSY")

        def dies(data: Any) -> None:
            raise ValueError(MARKER)

        worker = resilient(target)
        worker.register_function("t::parks", parks)
        worker.register_function("t::dies", dies)
        engine.wait_registered("t::parks", "t::dies")
        engine.define_queue("q", max_retries=1, backoff_ms=1)
        for place, function_id in enumerate(["t::parks", "t::parks", "t::parks", "t::dies"]):
            payload = {**SECRET, "card": f"{MARKER}-{place}"}
            action = {"type": "enqueue", "queue": "q"}
            caller.trigger({"function_id": function_id, "payload": payload, "action": action})
        engine.wait_queue_idle("q")
        assert len(engine.dead_letters("q")) == 2
        yield
        store.close()

    def invoke(self, lookout: Lookout, *arguments: str) -> str:
        result = CliRunner().invoke(app, arguments, input="y\n")
        shown = result.output + str(result.exception or "")
        lookout.text(" ".join(arguments[:2]), shown)
        assert result.exit_code == 0, shown
        lookout.objects()
        return result.stdout

    @pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
    def test_no_command_prints_what_is_in_message(
        self, as_json: list[str], parking: Path, engine: LoopbackEngine, lookout: Lookout
    ) -> None:
        where = ["--engine", engine.url, "--parking", str(parking)]
        listed = self.invoke(lookout, "dlq", "list", "q", *where, *as_json)
        assert "DECLINED" in listed
        self.invoke(lookout, "dlq", "triage", "q", *where, *as_json)
        for letter in ids(where):
            self.invoke(lookout, "dlq", "show", "q", letter, *where)
        self.invoke(lookout, "dlq", "redrive", "q", *where)
        self.invoke(lookout, "dlq", "redrive", "q", "--execute", *where)
        engine.wait_queue_idle("q")
        self.invoke(lookout, "dlq", "discard", "q", *where)

    def test_only_way_to_print_it_is_to_ask_for_it(
        self, parking: Path, engine: LoopbackEngine
    ) -> None:
        where = ["--engine", engine.url, "--parking", str(parking)]
        (letter, *_) = ids(where)
        asked = CliRunner().invoke(app, ["dlq", "show", "q", letter, "--payload", *where])
        assert MARKER in asked.output

    def test_doctor_prints_no_token(self, engine: LoopbackEngine, lookout: Lookout) -> None:
        self.invoke(lookout, "doctor", "--engine", engine.url, "--function", "t::dies")


def ids(where: list[str]) -> list[str]:
    listed = CliRunner().invoke(app, ["dlq", "list", "q", "--json", *where])
    return [one["id"] for one in json.loads(listed.stdout)]


def test_what_a_code_means_is_printed_without_token(
    lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("III_TOKEN", MARKER)
    for arguments in (["explain", "TIMEOUT"], ["codes"]):
        lookout.text("cli", CliRunner().invoke(app, arguments).output)


class BadStore(MemoryStore):
    """Somebody else's store, which says what it was asked."""

    def renew(self, *args: Any, **more: Any) -> bool:
        raise LookupError(MARKER)


class Deaf:
    """A client whose engine takes no triggers, and says why at length."""

    def register_function(self, function_id: str, handler: Any) -> None:
        raise iii.InvocationError("FORBIDDEN", MARKER)


def secretly() -> None:
    raise LookupError(MARKER)


class TestInTheBackground:
    """What goes wrong where nobody waits for it is told by where it was raised."""

    def ours(self, lookout: Lookout) -> list[str]:
        return [r.getMessage() for r in lookout.log.records if r.name == "iii_resilience"]

    def test_keeper(self, lookout: Lookout) -> None:
        Keeper._safely(lambda now: secretly())
        (told,) = self.ours(lookout)
        assert told.startswith("the keeper caught LookupError at test_secrets.py:")
        assert told.endswith("in secretly; it continues")

    def test_draining(self, lookout: Lookout) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        try:
            drain_at(signal.SIGUSR1, secretly)
            signal.raise_signal(signal.SIGUSR1)
            while not self.ours(lookout):
                time.sleep(0.01)
            (told,) = self.ours(lookout)
            assert told.startswith("draining caught LookupError at test_secrets.py:")
            for thread in threading.enumerate():
                if thread.name == "iii-resilience drain":
                    thread.join()
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)

    def test_renewal_of_leases(self, lookout: Lookout) -> None:
        hold = LeaseRenewer(BadStore()).hold("slot", 1, lease=0.03, keep=1.0)
        with hold:
            while not self.ours(lookout):
                time.sleep(0.01)
        until(lambda: not hold._held.under_way)  # or its thread has more to say, in another test
        told = self.ours(lookout)[0]
        assert told.startswith("a lease could not be renewed: LookupError at test_secrets.py:")

    def test_following_entry_of_engine(self, lookout: Lookout) -> None:
        connection: Any = SimpleNamespace(client=Deaf())
        _subscribe(connection, "policies", Watch(lambda: None, 1.0, "test"))
        (told,) = self.ours(lookout)
        assert told == "no events of policies (FORBIDDEN): it is only looked at from time to time"

    def test_exception_that_was_never_raised_has_no_place(self) -> None:
        assert where(LookupError(MARKER)) == "LookupError"


def test_marker_that_is_told_is_found(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    made = Lookout(seen, caplog)
    logging.getLogger("iii_resilience").warning("%s", MARKER)
    made.everything()
    assert made.found

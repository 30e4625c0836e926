"""Each fault does what it says, to the call it is planned for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from testing.loopback.loopback_clients import Raw, error_of

from iii_resilience.testing import (
    AnswerError,
    AnswerResult,
    CutCaller,
    CutTarget,
    Delay,
    Drop,
    DropAnswer,
    Fault,
    LoopbackEngine,
    RestartEngine,
)


@pytest.fixture
def caller(engine: LoopbackEngine) -> Iterator[Raw]:
    with Raw(engine.url, "caller") as raw:
        yield raw


@pytest.fixture
def worker(engine: LoopbackEngine) -> Iterator[Raw]:
    with Raw(engine.url, "worker") as raw:
        raw.register("a::do", "a::other")
        engine.wait_registered("a::do", "a::other")
        yield raw


def works(caller: Raw, worker: Raw, function_id: str = "a::do") -> bool:
    caller.call(function_id)
    worker.answer(worker.hear(), "fine")
    return bool(caller.hear().get("result") == "fine")


def test_error_meets_calls_it_is_planned_for(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.inject("a::do", AnswerError("X", "no", "trace"), call=2, times=2)
    assert works(caller, worker)
    for _ in range(2):
        assert caller.ask("a::do")["error"] == {"code": "X", "message": "no", "stacktrace": "trace"}
        assert works(caller, worker, "a::other")
    assert works(caller, worker)
    assert worker.silent()


def test_fault_for_ever_is_cleared(engine: LoopbackEngine, caller: Raw, worker: Raw) -> None:
    engine.inject("a::do", AnswerResult({"v": 1}), times=None)
    engine.inject("a::other", AnswerResult(2), times=None)
    for _ in range(3):
        assert caller.ask("a::do")["result"] == {"v": 1}
    engine.clear_faults("a::do")
    assert works(caller, worker)
    assert caller.ask("a::other")["result"] == 2
    engine.clear_faults()
    assert works(caller, worker, "a::other")


def test_handler_runs_before_its_answer_is_replaced(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    for fault, key in (
        (AnswerError("X", "no", after_execution=True), "error"),
        (AnswerResult(1, after_execution=True), "result"),
    ):
        engine.inject("a::do", fault)
        caller.call("a::do")
        worker.answer(worker.hear(), "ignored")
        answer = caller.hear()
        assert answer[key] in (1, {"code": "X", "message": "no"})


def test_functions_of_engine_can_fail_too(engine: LoopbackEngine, caller: Raw) -> None:
    engine.inject("engine::functions::info", AnswerError("FORBIDDEN", "hidden"))
    question = {"function_id": "a::do"}
    assert error_of(caller.ask("engine::functions::info", question)) == ("FORBIDDEN", "hidden")
    assert error_of(caller.ask("engine::functions::info", question))[0] == "NOT_FOUND"
    engine.inject("engine::queue::enqueue", AnswerError("channel_send_failed", "channel closed"))
    answer = caller.ask("a::do", action={"type": "enqueue", "queue": "jobs"})
    assert error_of(answer) == ("enqueue_error", "channel_send_failed: channel closed")


def test_dropped_call_is_neither_run_nor_answered(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.inject("a::do", Drop())
    caller.call("a::do")
    assert caller.silent()
    assert worker.silent()
    assert works(caller, worker)


def test_dropped_answer_leaves_handler_running(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.inject("a::do", DropAnswer())
    caller.call("a::do")
    worker.answer(worker.hear(), "lost")
    assert worker.silent()
    assert caller.silent()


def test_delayed_call_goes_on(engine: LoopbackEngine, caller: Raw, worker: Raw) -> None:
    engine.inject("a::do", Delay(0.05))
    began = time.monotonic()
    assert works(caller, worker)
    assert time.monotonic() - began >= 0.045


def test_delayed_call_ends_with_its_caller(
    engine: LoopbackEngine, caller: Raw, worker: Raw
) -> None:
    engine.inject("a::do", Delay(1.0))
    caller.call("a::do")
    engine.wait_calls("a::do")
    engine.disconnect("caller")
    with pytest.raises(TimeoutError):
        worker.hear(timeout=1.5)


@pytest.mark.parametrize("after", [True, False])
def test_caller_is_cut(engine: LoopbackEngine, caller: Raw, worker: Raw, after: bool) -> None:
    engine.inject("a::do", CutCaller(after_execution=after))
    caller.call("a::do")
    if after:
        worker.answer(worker.hear())
    assert caller.closed_with() == 1006
    assert worker.silent()
    assert engine.workers() == ("worker",)


@pytest.mark.parametrize("after", [True, False])
def test_target_is_cut(engine: LoopbackEngine, caller: Raw, worker: Raw, after: bool) -> None:
    engine.inject("a::do", CutTarget(after_execution=after))
    caller.call("a::do")
    if after:
        worker.answer(worker.hear())
    assert error_of(caller.hear())[0] == "invocation_stopped"
    assert worker.closed_with() == 1006
    assert not engine.registered("a::do")


@pytest.mark.parametrize("after", [True, False])
def test_engine_restarts(engine: LoopbackEngine, caller: Raw, worker: Raw, after: bool) -> None:
    engine.inject("a::do", RestartEngine(down_for=0.05, after_execution=after))
    caller.call("a::do")
    if after:
        worker.answer(worker.hear())
    assert caller.closed_with() == 1006
    assert worker.closed_with() == 1006
    deadline = time.monotonic() + 5
    while True:
        try:
            with Raw(engine.url, "caller") as back:
                assert error_of(back.ask("a::do"))[0] == "function_not_found"
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline


def test_where_two_faults_meet_call_first_is_carried_out(
    engine: LoopbackEngine, caller: Raw
) -> None:
    engine.inject("a::do", AnswerResult(1))
    engine.inject("a::do", AnswerResult(2), times=2)
    assert [caller.ask("a::do")["result"] for _ in range(3)] == [1, 2, 2]


class Homemade(Fault):
    pass


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        (("a::do", Drop(), 0), ValueError, "call must be a whole number at least 1, got 0"),
        (("a::do", Drop(), 1, 0), ValueError, "times must be a whole number at least 1, got 0"),
        (("a::do", Drop(), 1.5), ValueError, "call must be a whole number at least 1, got 1.5"),
        (("a::do", Drop), TypeError, "a fault is wanted"),
        (("", Drop()), ValueError, "function_id must be a function id, got ''"),
        ((5, Drop()), ValueError, "function_id must be a function id, got 5"),
        (("a::do", AnswerResult(float("nan"))), ValueError, "not JSON compliant"),
        (("a::do", AnswerResult("\ud83d")), ValueError, "surrogates not allowed"),
        (("a::do", AnswerResult(object())), TypeError, "not JSON serializable"),
    ],
)
def test_bad_plans_are_refused(
    engine: LoopbackEngine, arguments: tuple[Any, ...], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        engine.inject(*arguments)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: Delay(-1), "seconds must be a finite number of seconds at least 0, got -1"),
        (lambda: Delay("1"), "seconds must be a finite number of seconds"),  # type: ignore[arg-type]
        (lambda: AnswerError(5, "m"), "'code' must be <class 'str'>"),  # type: ignore[arg-type]
        (lambda: RestartEngine(down_for=float("inf")), "down_for"),
        (lambda: AnswerError("X", "m", 5), "'stacktrace' must be <class 'str'>"),  # type: ignore[arg-type]
    ],
)
def test_bad_faults_are_refused(build: Any, complaint: str) -> None:
    with pytest.raises((TypeError, ValueError), match=complaint):
        build()


def test_fault_nobody_can_carry_out_is_not_silent() -> None:
    engine = LoopbackEngine().start()
    engine.inject("a::do", Homemade())
    with Raw(engine.url, "caller") as caller:
        caller.call("a::do")
        assert caller.closed_with() == 1006
    with pytest.raises(RuntimeError, match="the loopback engine failed") as caught:
        engine.stop()
    assert isinstance(caught.value.__cause__, TypeError)
    engine.stop()

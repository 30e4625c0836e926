"""What observers raise: where it ends, and what is said of it."""

from __future__ import annotations

import logging
import sys

import pytest
from support.observers import ObserverFaults

from iii_resilience.core import observers
from iii_resilience.core.observers import IsolatedObserver, logger, where


def raised(error: Exception) -> Exception:
    """An exception with a traceback, raised in the function below."""

    def meter() -> None:
        raise error

    try:
        meter()
    except Exception as caught:
        return caught
    raise AssertionError


class BrokenHandler(logging.Handler):
    """A handler of the program's that has a fault."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError("the disk of MARKER is full")


def test_where_names_type_and_deepest_frame_only() -> None:
    error = raised(ValueError("MARKER"))
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_next is not None
    line = error.__traceback__.tb_next.tb_lineno
    assert where(error) == f"ValueError at test_observers.py:{line} in meter"


def test_where_of_exception_that_was_not_raised_is_its_type() -> None:
    assert where(KeyError("MARKER")) == "KeyError"


@pytest.mark.usefixtures("observer_faults")
def test_exception_ends_there_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    error = raised(ValueError("MARKER"))
    for _ in range(3):
        with IsolatedObserver("a span"):
            raise error
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("iii_resilience", "WARNING")
    assert record.getMessage() == (
        f"lost a span: {where(error)}; calls are not affected, and this is said once"
    )


@pytest.mark.usefixtures("observer_faults")
def test_each_place_and_each_signal_is_said(caplog: pytest.LogCaptureFixture) -> None:
    for signal in ("a span", "a metric"):
        for error in (KeyError(), ValueError(), KeyError()):
            with IsolatedObserver(signal):
                raise error
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [
        *("a span", "a span"),
        *("a metric", "a metric"),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_end_of_program_passes_through(error: type[BaseException]) -> None:
    with pytest.raises(error), IsolatedObserver("a span"):
        raise error


def test_report_that_fails_too_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def deep(error: BaseException) -> str:
        raise RecursionError

    monkeypatch.setattr(observers, "where", deep)
    with IsolatedObserver("a span"):
        raise KeyError


def test_code_without_fault_is_left_alone(observer_faults: ObserverFaults) -> None:
    with IsolatedObserver("a span"):
        pass
    assert not observer_faults.seen()


def test_after_hundred_places_nothing_more_is_said(
    observer_faults: ObserverFaults, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(120):
        with IsolatedObserver(f"signal {number}"):
            raise KeyError
    assert len(caplog.records) == len(observer_faults.seen()) == 100


class TestBrokenLog:
    @pytest.fixture(autouse=True)
    def _broken(self, monkeypatch: pytest.MonkeyPatch, observer_faults: ObserverFaults) -> None:
        del observer_faults
        monkeypatch.setattr(logger.logger, "handlers", [BrokenHandler()])

    def test_lost_record_is_said_on_stderr_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        logger.warning("one")
        logger.warning("two")
        said = capsys.readouterr().err
        assert said.startswith("iii_resilience lost a log record: ValueError at test_observers.py:")
        assert said.endswith(" in emit\n")
        assert said.count("\n") == 1
        assert "MARKER" not in said

    def test_program_may_silence_it_as_logging_itself(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(logging, "raiseExceptions", False)
        logger.warning("one")
        assert capsys.readouterr().err == ""

    def test_process_without_stderr_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        logger.warning("one")


def test_fields_of_record_have_prefix(caplog: pytest.LogCaptureFixture) -> None:
    observers.logger.warning("words %s", 1, extra={"code": "TIMEOUT"})
    (record,) = caplog.records
    assert record.getMessage() == "words 1"
    assert vars(record)["iii_code"] == "TIMEOUT"
    assert "code" not in vars(record)


def test_level_that_is_off_makes_no_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="iii_resilience"):
        logger.warning("one")
        logger.error("two")
    assert [record.getMessage() for record in caplog.records] == ["two"]


def test_caller_that_program_names_counts(caplog: pytest.LogCaptureFixture) -> None:
    def helper() -> None:
        observers.logger.warning("one")
        observers.logger.warning("two", stacklevel=2)

    helper()
    one, two = caplog.records
    assert one.funcName != two.funcName

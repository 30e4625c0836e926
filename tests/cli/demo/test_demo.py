"""The demo's verdict holds, and breaking any of the three rules it rests on makes it fail."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from support.waiting import until
from support.warm_process import WarmProcess
from typer.testing import CliRunner

import iii_resilience
from iii_resilience.cli.app import app
from iii_resilience.cli.demo import worker_process
from iii_resilience.cli.demo.callers import Order, WithLibrary
from iii_resilience.cli.demo.execution_log import CallReport, ExecutionLog, Ledger, Verdict, judge
from iii_resilience.cli.demo.scenarios import DemoRun, run_demo
from iii_resilience.cli.demo.worker_processes import Workers
from iii_resilience.client.readiness import Readiness
from iii_resilience.core.decide import decide
from iii_resilience.sdk.client_adapter import ClientAdapter


def verdict_of(*phases: str) -> Verdict:
    return run_demo(WithLibrary, None, print, phases).verdict


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's worker processes start at once."""

    def start(self: Workers, name: str) -> None:
        url, log = self._arguments
        self._running[name] = WarmProcess(  # type: ignore[assignment]
            worker_process.__file__, url, name, log, env=self._environment
        )

    monkeypatch.setattr(Workers, "start", start)


@pytest.fixture
def met_in_mid_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault meets calls under way, however the machine delays the calls or the fault."""
    saves, charges, kill = DemoRun._saves, DemoRun._charges, Workers.kill

    def slow_saves(self: DemoRun, count: int, work: float = 0.0, **more: Any) -> list[Order]:
        return saves(self, count, 2 * work, **more)

    def slow_charges(self: DemoRun, count: int, work: float = 0.0, **more: Any) -> list[Order]:
        return charges(self, count, 2 * work, **more)

    def kill_in_mid_charge(self: Workers, name: str) -> None:
        log = ExecutionLog(Path(self._arguments[1]))
        until(lambda: any(order.startswith("charge-") for order, _ in log.read().executions))
        kill(self, name)

    monkeypatch.setattr(DemoRun, "_saves", slow_saves)
    monkeypatch.setattr(DemoRun, "_charges", slow_charges)
    monkeypatch.setattr(Workers, "kill", kill_in_mid_charge)


class TestVerdict:
    @pytest.mark.long  # `make demo` shows the same, and every run of CI makes it
    @pytest.mark.timeout(240)
    def test_it_holds_for_every_fault(self) -> None:
        result = run_demo(WithLibrary, None, print)
        assert result.verdict.good, result.verdict
        assert len(result.reports) >= 200
        assert result.left_out == ()
        outcomes = Counter((told.kind, told.outcome) for told in result.reports)
        assert outcomes["forbidden", "FORBIDDEN"] == 6
        assert outcomes["missing", "function_not_found"] == 6
        assert outcomes["oversize", "payload_too_large"] == 1
        assert outcomes["ship", "enqueued"] == 12

    @pytest.mark.usefixtures("warm_workers", "met_in_mid_call")
    def test_it_fails_when_connected_check_is_broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ClientAdapter, "connected", property(lambda self: True))
        verdict = verdict_of("restarted")
        assert verdict.lost or verdict.ghosts

    @pytest.mark.usefixtures("warm_workers", "met_in_mid_call")
    def test_it_fails_when_registered_check_is_broken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unchecked = property(lambda self: True, lambda self, value: None)
        monkeypatch.setattr(Readiness, "unchecked", unchecked, raising=False)
        level = logging.getLogger("iii").level
        assert verdict_of("killed").lost
        assert logging.getLogger("iii").level == level, "the demo leaves the SDK's log as it was"

    @pytest.mark.usefixtures("warm_workers", "met_in_mid_call")
    def test_it_fails_when_idempotency_rule_is_broken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(failure: Any, policy: Any, call: Any, **more: Any) -> Any:
            return decide(failure, policy, attrs.evolve(call, idempotent=True), **more)

        monkeypatch.setattr("iii_resilience.retry.retried_call.decide", broken)
        assert verdict_of("killed").doubled


def told(order_id: str, outcome: str = "ok", **more: Any) -> CallReport:
    fields: dict[str, Any] = {
        "kind": order_id.partition("-")[0],
        "idempotent": True,
        "category": "",
        "decision": "",
        "attempts": ((10.0, 11.0),),
        "started": 10.0,
        "ended": 11.0,
        "expected": True,
        "most": 5,
    }
    return CallReport(order_id=order_id, outcome=outcome, **{**fields, **more})


def ledger(*executions: tuple[str, float], effects: tuple[str, ...] = ()) -> Ledger:
    return Ledger(executions, Counter(effects))


class TestJudge:
    def test_confirmed_order_without_effect_is_lost(self) -> None:
        assert judge(ledger(("save-1", 10.5)), [told("save-1")], []).lost == ("save-1",)

    def test_idempotent_order_that_should_have_succeeded_is_lost(self) -> None:
        assert judge(ledger(), [told("save-1", "TIMEOUT")], []).lost == ("save-1",)

    def test_order_that_could_not_succeed_is_not_lost(self) -> None:
        orders = [told("save-1", "FORBIDDEN", expected=False)]
        assert judge(ledger(), orders, []).good

    def test_a_second_run_of_non_idempotent_order_is_doubled(self) -> None:
        runs = ledger(("charge-1", 10.1), ("charge-1", 10.2), effects=("charge-1",))
        orders = [told("charge-1", idempotent=False, attempts=((10.0, 10.15), (10.15, 11.0)))]
        assert judge(runs, orders, []).doubled == ("charge-1",)

    def test_run_after_caller_was_told_otherwise_is_ghost(self) -> None:
        runs = ledger(("save-1", 12.0), effects=("save-1",))
        assert judge(runs, [told("save-1", "TIMEOUT")], []).ghosts == ("save-1",)

    def test_run_more_than_attempts_are_waited_for_is_ghost(self) -> None:
        runs = ledger(("save-1", 10.6), ("save-1", 10.7), effects=("save-1",))
        orders = [told("save-1", attempts=((10.0, 10.3), (10.5, 11.0)))]
        assert judge(runs, orders, []).ghosts == ("save-1",)

    def test_attempt_still_in_sdk_accounts_for_a_late_run(
        self,
    ) -> None:
        runs = ledger(("save-1", 10.9), effects=("save-1",))
        assert judge(runs, [told("save-1", attempts=((10.0, math.inf),))], []).good

    def test_queue_may_run_order_later(self) -> None:
        runs = ledger(("ship-1", 60.0), effects=("ship-1",))
        assert judge(runs, [told("ship-1", "enqueued")], []).good

    def test_a_second_attempt_on_what_is_forbidden_fails_verdict(self) -> None:
        twice = ((10.0, 10.1), (10.2, 10.3))
        orders = [told("forbidden-1", "FORBIDDEN", expected=False, attempts=twice)]
        verdict = judge(ledger(), orders, [])
        assert verdict.never == 1
        assert not verdict.good

    @pytest.mark.parametrize(
        "changes",
        [
            {"attempts": ()},
            {"attempts": ((10.0, 10.1), (10.2, 10.3))},
            {"outcome": "TIMEOUT"},
        ],
    )
    def test_forbidden_call_is_attempted_once_and_ends_so(self, changes: dict[str, Any]) -> None:
        fine = told("forbidden-1", "FORBIDDEN", expected=False)
        assert judge(ledger(), [fine], []).never == 0
        assert judge(ledger(), [attrs.evolve(fine, **changes)], []).never == 1

    def test_forbidden_function_that_ran_fails_verdict(self) -> None:
        orders = [told("forbidden-1", "FORBIDDEN", expected=False)]
        assert judge(ledger(("forbidden-1", 10.5)), orders, []).never == 1

    def test_what_no_fault_touches_must_succeed_idempotent_or_not(self) -> None:
        orders = [told("charge-1", "NOT_CONNECTED", idempotent=False, certain=True)]
        assert judge(ledger(), orders, []).lost == ("charge-1",)

    def test_call_without_payload_has_no_effect_and_is_not_lost(self) -> None:
        assert judge(ledger(), [told("empty-1", certain=True)], []).good
        assert not judge(ledger(), [told("empty-1", "TIMEOUT", certain=True)], []).good

    def test_more_attempts_than_policy_allows_fail_verdict(self) -> None:
        runs = ledger(("save-1", 10.5), effects=("save-1",))
        orders = [told("save-1", attempts=((10.0, 10.1),) * 6)]
        assert judge(runs, orders, []).too_often == ("save-1",)

    def test_only_first_attempt_at_kill_may_be_refused(self) -> None:
        order = told("save-1", "function_not_found")
        assert judge(ledger(), [order], [10.95]).refused == ("save-1",)
        assert judge(ledger(), [order], [10.95]).good
        assert judge(ledger(), [order], [9.0]).lost == ("save-1",)
        retried = attrs.evolve(order, attempts=((10.0, 10.1), (10.2, 11.0)))
        assert judge(ledger(), [retried], [10.95]).lost == ("save-1",)

    def test_log_keeps_one_effect_for_keyed_orders_only(self, tmp_path: Any) -> None:
        log = ExecutionLog(tmp_path / "log.db")
        log.prepare()
        assert [log.started("save-1"), log.started("save-1")] == [1, 2]
        for _ in range(2):
            log.keep("save-1")
            log.add("charge-1")
        assert log.read().effects == {"save-1": 1, "charge-1": 2}


class TestCommand:
    def test_engine_that_nothing_listens_at_is_one_clear_line(self) -> None:
        result = CliRunner().invoke(app, ["demo", "--engine", "ws://127.0.0.1:1"])
        assert result.exit_code == 2
        assert result.stdout.count("\n") <= 1
        assert "no engine listens at ws://127.0.0.1:1" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1

    def test_what_is_no_address_is_one_clear_line(self) -> None:
        result = CliRunner().invoke(app, ["demo", "--engine", "localhost"])
        assert result.exit_code == 2
        assert "is not a WebSocket address" in result.stderr

    @pytest.mark.parametrize(
        ("missing", "arguments"),
        [
            ("websockets", ""),
            ("iii", ""),
            ("iii", "'--engine', 'ws://127.0.0.1:1'"),
        ],
    )
    def test_missing_extra_is_one_clear_line(self, missing: str, arguments: str) -> None:
        code = (
            f"import sys; sys.modules[{missing!r}] = None\n"
            f"sys.argv = ['iii-resilience', 'demo', {arguments}]\n"
            "from iii_resilience.cli.main import main; main()"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 2
        (line,) = result.stderr.strip().splitlines()
        if not arguments:
            assert "pip install 'iii-resilience[iii,cli,testing]'" in line

    def test_version_is_printed(self) -> None:
        result = CliRunner().invoke(app, ["--version"])
        assert result.stdout.strip() == iii_resilience.__version__

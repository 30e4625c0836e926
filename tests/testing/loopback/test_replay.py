"""The loopback engine answers frame by frame as the real engine was recorded to."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence

import pytest
from testing.loopback.loopback_replay import Replay, Scenario, read

from iii_resilience.testing import LoopbackEngine, Rbac

SCENARIOS = read()


def replay(
    scenarios: Sequence[Scenario], patience: float = 5.0
) -> tuple[dict[str, list[str]], int]:
    rbac = Rbac(auth_function_id="probe::auth", expose=("public::*",))
    with LoopbackEngine(queue_worker=False, rbac=rbac) as engine:
        run = Replay(engine.url, engine.rbac_url, patience)
        return asyncio.run(run.run(scenarios)), run.played


@pytest.fixture(scope="module")
def outcome() -> tuple[dict[str, list[str]], int]:
    return replay(SCENARIOS)


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_every_recorded_scenario_is_answered_alike(
    name: str, outcome: tuple[dict[str, list[str]], int]
) -> None:
    differences, _ = outcome
    assert differences[name] == []


def test_whole_recording_is_played(outcome: tuple[dict[str, list[str]], int]) -> None:
    _, played = outcome
    assert len(SCENARIOS) == len({scenario.name for scenario in SCENARIOS}) > 35
    assert played == sum(len(scenario.events) for scenario in SCENARIOS) > 110


def altered(name: str, change: Callable[[list[dict[str, object]]], None]) -> list[Scenario]:
    """The recording up to one scenario, of which the events are changed."""
    kept: list[Scenario] = []
    for scenario in SCENARIOS:
        kept.append(scenario)
        if scenario.name == name:
            events = copy.deepcopy(list(scenario.events))
            change(events)
            kept[-1] = Scenario(name, tuple(events))
            return kept
    raise AssertionError(name)


def another_message(events: list[dict[str, object]]) -> None:
    last = events[-1]["msg"]
    assert isinstance(last, dict)
    last["error"]["message"] += "!"


def another_id(events: list[dict[str, object]]) -> None:
    last = events[-1]["msg"]
    assert isinstance(last, dict)
    last["invocation_id"] = "uuid-9999"


def one_more_field(events: list[dict[str, object]]) -> None:
    last = events[-1]["msg"]
    assert isinstance(last, dict)
    last["traceparent"] = None


def one_more_frame(events: list[dict[str, object]]) -> None:
    events.append(copy.deepcopy(events[-1]))


def one_frame_less(events: list[dict[str, object]]) -> None:
    events.pop()


def another_order(events: list[dict[str, object]]) -> None:
    events[-2:] = reversed(events[-2:])


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("handler raises", another_message, "$.error.message: recorded 'boom!'"),
        ("unknown function", another_id, "uuid-9999 is new"),
        ("call whose result is None", one_more_field, "$.traceparent: missing"),
        ("function info", one_more_frame, "nothing seen of"),
        ("wrong namespace", one_frame_less, "not recorded: "),
        ("a third worker connects under a name that is taken", another_message, ""),
        (
            "a second worker registers the same function id: rejected, the first keeps it",
            another_order,
            "$.type: recorded 'registrationrejected'",
        ),
    ],
)
def test_recording_that_differs_is_noticed(
    name: str, change: Callable[[list[dict[str, object]]], None], complaint: str
) -> None:
    if not complaint:
        changed = altered(name, lambda events: events[-1]["msg"].update(code=1000))  # type: ignore[attr-defined]
        complaint = "closed with 1005"
    else:
        changed = altered(name, change)
    differences, _ = replay(changed, patience=0.5)
    assert any(complaint in text for text in differences[name]), differences[name]
    assert not any(found for other, found in differences.items() if other != name)

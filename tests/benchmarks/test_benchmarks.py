"""The benchmarks run, with reduced numbers: what they measure is not judged here."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import bench_at_once
import bench_breaker
import bench_import
import bench_overhead
import bench_scale
import bench_shapes
import measure
import peers
import pytest
import run
import table
from measure import Effort
from support.paths import ROOT
from support.postgres_fixtures import needs_postgres
from support.redis_fixtures import needs_redis
from table import Bound, Section

TINY = Effort(rounds=2, slice=0.0001, scale=0.001)
MODULES = {
    "stamina": "stamina",
    "backoff": "backoff",
    "redress": "redress",
    "google-api-core": "google",
    "hyx": "hyx",
    "nopanic": "nopanic",
    "pybreaker": "pybreaker",
    "interlock-cb": "interlock",
}


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks turn the library's log off, for good: their processes end with them."""
    monkeypatch.setattr(peers, "logging_off", lambda: None)


# What takes processes of its own has a test of its own below.
QUICK_PARTS = [
    *(bench_overhead.success, bench_overhead.success_async),
    *(bench_overhead.repaired, bench_overhead.repaired_async),
    *(bench_overhead.give_up, bench_overhead.give_up_async),
    *(bench_breaker.around_a_success, bench_breaker.rejection),
    *(bench_shapes.shapes, bench_scale.growth),
]


@pytest.mark.bare  # without the peers' environment only tenacity is beside ours
@pytest.mark.parametrize("part", QUICK_PARTS, ids=lambda part: part.__name__)
def test_part_runs_and_says_what_it_found(part: object) -> None:
    section = part(TINY)  # type: ignore[operator]
    assert isinstance(section, Section)
    assert section.rows
    assert {len(row) for row in section.rows} == {len(section.columns)}
    assert str(section).startswith(f"### {section.title}\n\n{section.text}\n\n| ")


def test_ours_and_tenacity_finish_all_calls_that_wait() -> None:
    section = bench_scale.waiting(Effort(rounds=2, slice=0.001, scale=0.001))
    waiters = [peers.OURS, "tenacity", *(["nopanic"] if find_spec("nopanic") else [])]
    assert [row[0] for row in section.rows] == waiters
    assert [row[-2:] for row in section.rows] == [["200", "200"]] * len(waiters)


def test_import_is_measured_in_processes_of_its_own() -> None:
    (section,) = bench_import.sections(Effort(rounds=2, slice=0.001, scale=0.001))
    assert section.rows[0][0] == f"`{bench_import.STANDS_ON}`"
    assert section.rows[0][2] == "1.00"
    assert section.bounds[0].met


@pytest.mark.parametrize("name", MODULES)
def test_every_peer_that_is_installed_takes_part(name: str) -> None:
    if find_spec(MODULES[name]) is None:
        pytest.skip(f"{name} is not installed here: `make bench` has an environment for it")
    assert name in {
        **peers.peers(),
        **peers.peers(asynchronous=True),
        **bench_breaker.guards(broken=False),
    }


@pytest.mark.parametrize("name", [peers.OURS, peers.BARE, "tenacity", *MODULES])
def test_connection_error_is_repeated_and_mistake_is_not(name: str) -> None:
    decorators = {peers.OURS: peers.ours(wait=False), peers.BARE: peers.bare}
    decorators |= peers.peers(wait=False)
    if name not in decorators:
        pytest.skip(f"{name} is not installed here, or has no decorator for plain functions")
    repaired = bench_overhead.FailsOneInEight()

    def function() -> int:
        return repaired()

    assert decorators[name](function)() == 1
    assert repaired.calls == 2
    made = []

    def fails() -> None:
        made.append(1)
        raise peers.permanent_for_redress() if name == "redress" else ValueError("x")

    with pytest.raises(Exception, match="x"):
        decorators[name](fails)()
    assert len(made) == 1


def test_pinned_peers_are_those_that_are_measured() -> None:
    lines = (ROOT / "benchmarks/requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert {*peers.PEERS, *peers.BREAKERS} <= pinned
    constrained = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    # Two pins of one package must agree, or `make bench` cannot be installed.
    ours = dict(line.split("==") for line in constrained if "==" in line)
    theirs = dict(line.split("==") for line in lines if "==" in line)
    assert {name: ours[name] for name in ours.keys() & theirs} == {
        name: theirs[name] for name in ours.keys() & theirs
    }


# The driver.


def test_what_is_asked_for_is_printed_and_put_between_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = Section("A", "Text.", ["", "µs"], [["x", "1"]], [Bound("b", 2.0, 1.0, "ms")])
    monkeypatch.setattr(run, "PARTS", {"overhead": lambda _: iter([section])})
    results = tmp_path / "RESULTS.md"
    results.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        assert run.main(["--quick", "--write", str(results)]) == 0
    text = results.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{table.BEGIN}\n\n")
    assert text.endswith(f"\n\n{table.END}\nafter\n")
    assert (
        text.count("### A\n\nText.\n\n|  | µs |\n| --- | --- |\n| x | 1 |\n\n- **missed**: b: 2")
        == 1
    )
    assert "old" not in text
    assert "0 of 1 bounds are met." in text
    assert "### A" in capsys.readouterr().out


def test_named_part_takes_place_of_its_older_sections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def section(title: str, measured: float) -> Section:
        return Section(title, "Text.", ["", "µs"], [["x", "1"]], [Bound("b", measured, 1.0)])

    parts = {"a": [section("A", 0.5)], "b": [section("B", 2.0)]}
    monkeypatch.setattr(run, "PARTS", {name: lambda _, n=name: iter(parts[n]) for name in parts})
    results = tmp_path / "RESULTS.md"
    results.write_text(f"before\n{table.BEGIN}\n{table.END}\nafter\n", encoding="utf-8")
    run.main(["--quick", "--write", str(results)])
    whole = results.read_text(encoding="utf-8")
    assert "1 of 2 bounds are met." in whole
    parts |= {"b": [section("B", 0.75), section("C", 3.0)]}
    for _ in range(2):
        run.main(["--quick", "--write", str(results), "b"])
    text = results.read_text(encoding="utf-8")
    kept, _, new = text.partition("### B")
    assert whole.startswith(kept)
    assert [new.count(title) for title in ("### B", "### C")] == [0, 1]
    assert new.count("Text. Measured by itself: ") == 2
    assert new.endswith(f"3 (at most 1)\n\n2 of 3 bounds are met.\n\n{table.END}\nafter\n")


def test_part_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["nothing"])
    assert "no part is named nothing (there are: overhead, " in capsys.readouterr().err


def test_file_without_marks_is_left_alone(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"RESULTS\.md has no lines"):
        table.write(results, "x")
    assert results.read_text(encoding="utf-8") == "mine"


def test_results_have_marks() -> None:
    text = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    assert text.count(table.BEGIN) == text.count(table.END) == 1


def test_what_trigger_benchmark_prints_is_read_as_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = (
        "| | bare SDK, µs | resilient, µs | ratio |\n| --- | --- | --- | --- |\n"
        "| `trigger`, 200 bytes | 1 | 2 | 2.000 |\n\n"
        "| payload | json.dumps, ms | check, ms | ratio |\n| --- | --- | --- | --- |\n"
        "| 5000 records | 1.00 | 1.00 | 1.00 |\n"
    )

    class Ran:
        returncode, stdout, stderr = 0, printed, ""

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Ran)
    calls, payloads = run.trigger(TINY)
    assert calls.columns == ["", "bare SDK, µs", "resilient, µs", "ratio"]
    assert calls.rows == [["`trigger`, 200 bytes", "1", "2", "2.000"]]
    assert [str(bound) for bound in calls.bounds] == [
        "**missed**: `trigger`, 200 bytes: 2 (at most 1.03)"
    ]
    assert [bound.met for bound in payloads.bounds] == [True]
    assert payloads.rows == [["5000 records", "1.00", "1.00", "1.00"]]


def test_trigger_benchmark_still_prints_such_tables() -> None:
    tree = ast.parse((ROOT / "benchmarks/bench_trigger.py").read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert any(isinstance(t, str) and t.startswith("| | bare SDK, µs |") for t in texts)
    assert any(isinstance(t, str) and t.startswith("\n| payload |") for t in texts)
    assert set(run._TRIGGER_MOST) <= {t for t in texts if isinstance(t, str)}


def test_what_many_at_once_prints_is_read_as_table(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = (
        "| at once | bare SDK, µs a call | resilient, µs a call | ratio | lost answers |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| 10 coroutines | 100 | 110 | 1.100 | 0 / 0 |\n"
        "| 1 thread | 100 | 104 | 1.040 | 0 / 0 |\n"
    )

    class Ran:
        returncode, stdout, stderr = 0, printed, ""

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Ran)
    (section,) = run.at_once(TINY)
    assert section.columns[3] == "ratio"
    assert [bound.met for bound in section.bounds] == [False, True]


@needs_postgres
@needs_redis
def test_keys_are_measured_on_each_store() -> None:
    (section,) = run.stores(TINY)
    names = [row[0].partition(" ")[0] for row in section.rows]
    assert names == ["SQLite"] * 2 + ["Redis"] * 2 + ["PostgreSQL"] * 2 + ["SQLite", "PostgreSQL"]
    assert [row[1] for row in section.rows[-2:]] == ["insert and commit"] * 2
    assert section.rows[-1][-1] == "1.00"
    assert all(int(row[2]) > 0 for row in section.rows)


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times four turns of two calls of one caller."""
    for name, calls in {"CALLS": 4, "TURN": 2, "_EACH": 1, "_LEAST": 3}.items():
        monkeypatch.setattr(bench_at_once, name, calls)


@pytest.mark.usefixtures("short_rounds")
def test_both_ways_take_turns() -> None:
    order: list[str] = []
    ways: dict[str, bench_at_once.Way] = {w: partial(order.append, w) for w in ("bare", "ours")}
    found = bench_at_once.threads(ways, 1, 2)
    first = (["bare"] * 2 + ["ours"] * 4 + ["bare"] * 2) * 3
    second = (["ours"] * 2 + ["bare"] * 4 + ["ours"] * 2) * 3
    assert order == [*first, *second, *first]
    assert [len(times) for times in found.times.values()] == [2, 2]
    assert found.row().startswith("| 1 thread | ")


@pytest.mark.usefixtures("short_rounds")
def test_turns_with_lost_answer_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class LostError(Exception):
        code = "TIMEOUT"

    made = 0

    def lost() -> None:
        nonlocal made
        made += 1
        if made not in {13, 36}:  # one in the first turn of the first round, one in the last turn
            return
        error = LostError()
        error.__dict__.update(code="TIMEOUT", message="m")
        time.sleep(0.5)
        raise error

    found = bench_at_once.threads({"bare": lambda: None, "ours": lost}, 1, 2)
    assert made == 36
    assert found.lost == {"bare": 0, "ours": 2}
    assert [len(times) for times in found.times.values()] == [2, 2]
    assert max(found.times["ours"]) < 1e5

    def always_lost() -> None:
        raise TimeoutError

    monkeypatch.setattr(bench_at_once, "lost", lambda error: isinstance(error, TimeoutError))
    found = bench_at_once.threads({"bare": lambda: None, "ours": always_lost}, 1, 2)
    assert found.row() == "| 1 thread | nan | nan | nan | 0 / 36 |"


@pytest.mark.usefixtures("short_rounds")
async def test_coroutines_of_round_run_at_once() -> None:
    running = most = 0

    async def call() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    found = await bench_at_once.coroutines({"bare": call, "ours": call}, 7, 1)
    assert most == 7
    assert found.name == "7 coroutines"


# The measuring.


def test_candidates_take_turns_in_rotating_order() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    measure.alternate(calls, Effort(rounds=3, slice=0.0, scale=1.0))
    assert order[-9:] == [*"abc", *"bca", *"cab"]


def test_ratio_is_median_over_rounds() -> None:
    taken = measure.Taken({"x": [2.0, 30.0, 6.0], "y": [1.0, 10.0, 6.0]})
    assert taken.ratio("x", "y") == 2.0
    assert taken.us("x") == 6.0
    assert measure.Taken({"x": [2.0], "y": [1.0], "z": [3.0]}).fastest(["x", "y", "z"]) == "y"

"""The house: who may know whom, what an import costs, and what every module says of itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import iii_resilience

HOUSE = Path(iii_resilience.__file__).parent
NAME = "iii_resilience"

# From the ground up; a room is known by the longest entry that begins its name. Rooms on one
# floor may know one another as long as there is no circle (which has a test of its own).
FLOORS: list[tuple[str, ...]] = [
    ("errors", "checks", "codes", "failure", "lazy", "cancellations"),
    ("classify", "classification", "rpc", "asking"),
    ("backoff",),
    ("guards",),
    ("policy",),
    ("decide",),
    ("hints",),
    ("report",),
    ("telemetry",),
    # A book and the files it is made from: it reads them anew, and says what they said.
    ("book", "config", "rules", "queues", "provenance", "reload", "watch"),
    ("propagate",),
    ("run", "stepping", "shielded"),
    ("pluggable", "source"),
    ("loop",),
    ("retry",),
    ("waiters", "eventloops", "question", "flights", "payloads", "sdk"),
    ("link",),
    ("ending",),
    ("discover", "ensure"),
    ("stores",),
    ("calling", "handling"),
    ("client", "engine_policies"),
    ("operating",),
]
# The public method policy.to_tenacity() needs what stands above the policy.
POINTS_UP = {("policy", "pluggable")}
BESIDE = ("testing",)  # stands beside the house: it may look in, nobody may look out at it


def modules() -> dict[str, Path]:
    found = {}
    for path in HOUSE.rglob("*.py"):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


MODULES = modules()
ROOMS = sorted(name for name in MODULES if name)


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(name: str, *, everywhere: bool) -> Iterator[str]:
    """The full names a module imports: at module level, or in its functions too."""
    todo: list[ast.AST] = [tree(name)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide where the arrows point"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif everywhere or not (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_type_checking(node)
        ):
            todo.extend(ast.iter_child_nodes(node))


def rooms_known(name: str, *, everywhere: bool = True) -> set[str]:
    known = set()
    for full in imports(name, everywhere=everywhere):
        if full == NAME or full.startswith(f"{NAME}."):
            path = full.removeprefix(NAME).lstrip(".")
            while path not in MODULES:
                path = path.rpartition(".")[0]
            known.add(path)
    return known - {name}


def top_of(name: str) -> str:
    return name.partition(".")[0]


def floor(name: str) -> int | None:
    top = top_of(name)
    return next((n for n, rooms in enumerate(FLOORS) if top in rooms), None)


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_has_a_floor(name: str) -> None:
    assert floor(name) is not None or top_of(name) in BESIDE


@pytest.mark.parametrize("name", [name for name in ROOMS if floor(name) is not None])
def test_no_room_knows_one_above_it(name: str) -> None:
    own = floor(name)
    assert own is not None
    for other in rooms_known(name):
        if (name, other) in POINTS_UP:
            continue
        if own == len(FLOORS) - 1 and (other == "" or top_of(other) in BESIDE):
            continue  # the operator uses the library as its users do, and shows it off
        above = floor(other)
        assert above is not None, f"{name} imports {other or NAME}, which stands beside the house"
        assert above <= own, f"{name} imports {other}, which stands above it"


def test_calling_and_handling_do_not_know_each_other() -> None:
    for name in ROOMS:
        for here, there in (("calling", "handling"), ("handling", "calling")):
            if top_of(name) == here:
                assert not [o for o in rooms_known(name) if top_of(o) == there]


@pytest.mark.parametrize("name", [name for name in ROOMS if top_of(name) == "testing"])
def test_the_test_engine_knows_neither_callers_nor_operators(name: str) -> None:
    tops = {top_of(other) for other in rooms_known(name)}
    assert not tops & {"calling", "operating", ""}


def test_there_is_no_circle() -> None:
    graph = {name: rooms_known(name, everywhere=False) for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_imports_the_sdk_when_it_is_imported_itself(name: str) -> None:
    tops = {top_of(full) for full in imports(name, everywhere=False)}
    assert not tops & {"iii", "iii_helpers"}


EXTRAS = ("yaml", "cattrs", "iii", "typer", "rich", "websockets", "jsonschema", "pytest", "redis")


def test_the_import_loads_none_of_what_is_optional_or_for_files_only() -> None:
    code = (
        "import sys, iii_resilience\n"
        f"print(sorted(set(sys.modules) & set({EXTRAS!r})))\n"
        "iii_resilience.load_policies({'version': 1, 'policies': {'a': {}}})\n"
        f"print(sorted(set(sys.modules) & set({EXTRAS!r})))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr == ""
    before, after = ran.stdout.splitlines()
    assert before == "[]"
    assert after == "['cattrs']"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_says_what_it_is_for(name: str) -> None:
    text = ast.get_docstring(tree(name))
    assert text
    assert text.splitlines()[0].endswith((".", ":", "?"))


def test_the_public_names_are_sorted_and_there() -> None:
    names = iii_resilience.__all__
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if not hasattr(iii_resilience, name)]

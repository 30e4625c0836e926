"""The layers: which package may import which, what an import costs, and what modules say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import iii_resilience

PACKAGE = Path(iii_resilience.__file__).parent
NAME = "iii_resilience"

# What each package may import, beside itself. docs/architecture.md shows the same as a picture.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "telemetry": {"core"},
    "stores": {"core"},
    "sdk": {"core", "telemetry"},  # of telemetry only a logger
    "config": {"sdk", "core"},
    "retry": {"config", "telemetry", "core"},
    "handling": {"stores", "sdk", "telemetry", "core"},
    "client": {"retry", "config", "handling", "sdk", "telemetry", "core"},
    "testing": {"retry", "sdk", "telemetry", "core"},
}
MAY_IMPORT["cli"] = {"", *MAY_IMPORT}  # the operator's side, the package's root included
MAY_IMPORT[""] = {*MAY_IMPORT} - {"cli", "testing"}  # public names
# `policy.to_tenacity()` is a method of a policy and needs tenacity: it is imported when called.
EXCEPTION = ("core.policy", "retry.tenacity_adapter")


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


MODULES = modules()


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str, *, in_functions: bool = True) -> Iterator[str]:
    """The full names a module imports, for type checkers included."""
    todo: list[ast.AST] = [tree(name)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide where the arrows point"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif in_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo.extend(ast.iter_child_nodes(node))


def imported_modules(name: str, *, in_functions: bool = True) -> set[str]:
    """The package's own modules among them."""
    found = set()
    for full in imports(name, in_functions=in_functions):
        if full == NAME or full.startswith(f"{NAME}."):
            path = full.removeprefix(NAME).lstrip(".")
            while path not in MODULES:
                path = path.rpartition(".")[0]
            found.add(path)
    return found - {name}


def package_of(name: str) -> str:
    return name.partition(".")[0]


# What an SDK client has; outside `sdk` a client is opaque. The demo makes clients of its own, and
# `core` sees no client: it reads the names of frames in an SDK's traceback.
CLIENT_PARTS = {
    "_client",
    "_fatal_error",
    "_functions",
    "_get_worker_metadata",
    "_handle_message",
    "_loop",
    "_options",
    "_prepare_call",
    "_receiver_task",
    "_register_trigger",
    "_thread",
    "_triggers",
    "_worker_namespace",
    "_ws",
    "add_connection_state_listener",
    "get_connection_state",
    "trigger_async",
}
OUTSIDE_SDK = sorted(
    name
    for name in MODULES
    if package_of(name) not in {"core", "sdk", "testing"} and not name.startswith("cli.demo")
)


def client_parts(name: str) -> Iterator[str]:
    """The parts of a client that a module names, each with its line."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and node.attr in CLIENT_PARTS:
            # An object's own attribute may have any name; `Caller` has a method of one of these.
            own = ast.unparse(node.value) in {"self", "cls", "self._caller", "caller"}
            part = "" if own else node.attr
        elif isinstance(node, ast.Constant):
            part = str(node.value)
        else:
            continue
        if part in CLIENT_PARTS:
            yield f"line {node.lineno}: {part}"


def test_only_sdk_touches_sdk_client() -> None:
    assert [f"{name}, {part}" for name in OUTSIDE_SDK for part in client_parts(name)] == []


def test_no_client_has_type_any() -> None:
    """Else mypy would let anything be done with it."""
    assert [
        f"{name}, line {argument.lineno}: {argument.arg}"
        for name in OUTSIDE_SDK
        for argument in ast.walk(tree(name))
        if isinstance(argument, ast.arg)
        and argument.arg in {"client", "worker"}
        and argument.annotation is not None
        and ast.unparse(argument.annotation) == "Any"
    ] == []


def test_no_block_is_run_by_generator() -> None:
    """``contextlib.contextmanager`` sets the traceback of what passes through it.

    An exception may refuse attributes, and the block may be a user's code. The commands run none.
    """
    generators = {"contextlib.contextmanager", "contextlib.asynccontextmanager"}
    assert [
        name
        for name in sorted(MODULES)
        if package_of(name) != "cli" and generators & set(imports(name))
    ] == []


def test_root_has_twelve_entries() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert entries == {"__init__.py", "py.typed", *MAY_IMPORT} - {""}


def test_imports_point_down() -> None:
    assert [
        f"{name} imports {other or NAME}"
        for name in sorted(MODULES)
        for other in sorted(imported_modules(name))
        if package_of(other) not in {package_of(name), *MAY_IMPORT[package_of(name)]}
        and (name, other) != EXCEPTION
    ] == []


def test_core_policy_imports_retry_when_called() -> None:
    name, other = EXCEPTION
    assert other in imported_modules(name)
    assert other not in imported_modules(name, in_functions=False)


def test_only_resilient_imports_handling_in_client() -> None:
    importers = {
        name
        for name in MODULES
        if package_of(name) == "client"
        and any(package_of(other) == "handling" for other in imported_modules(name))
    }
    assert importers == {"client.resilient"}


def test_there_is_no_import_circle() -> None:
    graph = {name: imported_modules(name) for name in MODULES}
    graph[EXCEPTION[0]].discard(EXCEPTION[1])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_each_file_stem_stands_once() -> None:
    stems = Counter(name.rpartition(".")[2] for name in MODULES)
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_each_class_name_stands_once() -> None:
    classes = Counter(
        node.name
        for name in MODULES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_no_module_imports_sdk_at_import() -> None:
    assert [
        f"{name} imports {full}"
        for name in sorted(MODULES)
        for full in imports(name, in_functions=False)
        if package_of(full) in {"iii", "iii_helpers"}
    ] == []


EXTRAS = (
    "yaml",
    "cattrs",
    "iii",
    "typer",
    "rich",
    "websockets",
    "jsonschema",
    "pytest",
    "redis",
    "psycopg",
)


def test_import_loads_nothing_optional_or_for_files() -> None:
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


def test_every_module_has_docstring() -> None:
    firsts = {name: (ast.get_docstring(tree(name)) or "").partition("\n")[0] for name in MODULES}
    assert [name for name, line in firsts.items() if not line.endswith((".", ":", "?"))] == []


def test_public_names_are_sorted_and_there() -> None:
    names = vars(iii_resilience)["__all__"]
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if not hasattr(iii_resilience, name)]

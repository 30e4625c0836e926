"""Names are loaded when they are first asked for: what an import leaves alone, and who wins."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import iii_resilience
import iii_resilience.handling
import iii_resilience.stores
from iii_resilience.lazy import later

PACKAGES = [iii_resilience, iii_resilience.handling, iii_resilience.stores]


def fresh(code: str) -> str:
    """What a process of its own prints."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr == ""
    return ran.stdout.strip()


def loaded(statement: str, *names: str) -> list[str]:
    """Which of these modules, or of modules below them, a statement loads."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    modules = fresh(code).split()
    return sorted(m for m in modules if any(f"{m}.".startswith(f"{name}.") for name in names))


def test_the_bare_import_loads_nothing_but_the_table_of_names() -> None:
    third = ("tenacity", "attrs", "attr", "opentelemetry", "asyncio", "json")
    assert loaded("import iii_resilience", "iii_resilience", *third) == [
        "iii_resilience",
        "iii_resilience.lazy",
    ]


def test_a_decorated_plain_function_loads_no_asyncio_and_nothing_of_workers_or_files() -> None:
    # What asyncio itself would load is the better part of what an import costs.
    statement = (
        "from iii_resilience import iii_retry; "
        "f = iii_retry(idempotent=True)(lambda: 1); assert f() == 1"
    )
    foreign = ("asyncio", "ssl", "socket", "difflib", "hashlib", "importlib.resources")
    own = ("calling", "handling", "stores", "config", "link", "reload", "watch", "provenance")
    assert loaded(statement, *foreign, *(f"iii_resilience.{name}" for name in own)) == []


def test_a_retry_of_a_plain_function_loads_no_asyncio_either() -> None:
    statement = """
import sys
from iii_resilience import Backoff, iii_retry

@iii_retry(idempotent=True, backoff=Backoff(base=0.001, jitter="none"))
def fails_once(errors=[ConnectionResetError()]):
    if errors:
        raise errors.pop()
    return "asyncio" in sys.modules

print(fails_once())
"""
    assert fresh(statement) == "False"


def test_a_caller_loads_no_store_and_no_files() -> None:
    own = ("stores", "config", "engine_policies", "operating", "handling.idempotent")
    assert (
        loaded(
            "from iii_resilience import resilient",
            "sqlite3",
            "redis",
            *(f"iii_resilience.{name}" for name in own),
        )
        == []
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_see_the_names_where_they_are_loaded_from(package: object) -> None:
    rooms = package.__dict__["_rooms"]
    tree = ast.parse(Path(str(package.__dict__["__file__"])).read_text(encoding="utf-8"))
    seen = {
        alias.name: str(node.module).removeprefix(f"{package.__dict__['__name__']}.")
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == rooms
    assert set(package.__dict__["__all__"]) <= set(rooms)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_name_is_that_of_its_module_and_is_listed(package: object) -> None:
    prefix = package.__dict__["__name__"]
    for name, room in package.__dict__["_rooms"].items():
        assert getattr(package, name) is getattr(importlib.import_module(f"{prefix}.{room}"), name)
        assert name in dir(package)


def test_a_name_that_is_not_there_is_an_attribute_error_that_knows_the_nearest() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'iii_rety'") as caught:
        _ = iii_resilience.iii_rety  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    assert (caught.value.name, caught.value.obj) == ("iii_rety", iii_resilience)


# Where a function has the name of its module, the import system would put the module in its place.
SAME_NAME = [
    ("iii_resilience", "classify"),
    ("iii_resilience", "discover"),
    ("iii_resilience.handling", "consumer"),
    ("iii_resilience.handling", "idempotent"),
]


@pytest.mark.parametrize(("package", "name"), SAME_NAME)
def test_a_function_is_not_hidden_by_its_module_of_the_same_name(package: str, name: str) -> None:
    code = (
        f"import {package}.{name}\n"
        f"from {package} import {name}\n"
        f"import {package}\n"
        f"import sys\n"
        f"sys.modules.pop('{package}.{name}')\n"
        f"import {package}.{name}\n"
        f"print(type({name}).__name__, {package}.{name} is {name})"
    )
    assert fresh(code) == "function True"


def test_a_test_may_put_something_in_the_place_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iii_resilience, "classify", len)
    assert iii_resilience.classify is len  # type: ignore[comparison-overlap]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each first import is tried in a fork")
def test_every_room_can_be_the_first_that_is_loaded() -> None:
    """Whoever is asked for first, there is no circle that only another order would hide."""
    code = """
import os, sys, iii_resilience, iii_resilience.lazy
from importlib import import_module
import tenacity, attrs, asyncio, opentelemetry.metrics, opentelemetry.trace
for room in sorted(set(iii_resilience._rooms.values())):
    child = os.fork()
    if not child:
        try:
            import_module(f"iii_resilience.{room}")
        except BaseException as error:
            print(room, repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    assert fresh(code) == ""


def test_threads_that_ask_at_once_all_find_the_same_and_whole_object() -> None:
    code = """
import sys, threading
import iii_resilience
sys.setswitchinterval(1e-5)
names = iii_resilience.__all__
together, found = threading.Barrier(12), []
def ask(turn):
    together.wait()
    mine = names[turn * 3:] + names[:turn * 3]
    try:
        found.append({name: getattr(iii_resilience, name) for name in mine})
    except BaseException as error:
        found.append(repr(error))
threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found), all(one == found[0] != "" for one in found), type(found[0]).__name__)
"""
    assert fresh(code) == "12 True dict"


def test_a_module_for_later_is_loaded_with_its_first_name() -> None:
    code = """
import sys
from iii_resilience.lazy import later
colorsys = later("colorsys")
print("colorsys" in sys.modules, colorsys.ONE_THIRD, "colorsys" in sys.modules)
"""
    assert fresh(code) == f"False {1 / 3} True"


def test_a_module_for_later_heeds_whoever_replaces_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = later("threading")
    assert module.Event is threading.Event
    another = object()
    monkeypatch.setattr(threading, "Event", another)
    assert module.Event is another


def test_a_module_for_later_that_does_not_exist_says_so_when_it_is_used() -> None:
    missing = later("no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = missing.name

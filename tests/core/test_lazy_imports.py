"""Names are loaded when they are first asked for: what an import leaves alone, and who wins."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

import iii_resilience
import iii_resilience.config
import iii_resilience.handling
import iii_resilience.stores
import iii_resilience.testing
from iii_resilience.core.lazy_imports import lazy_exports, lazy_module

PACKAGES = [
    iii_resilience,
    iii_resilience.config,
    iii_resilience.handling,
    iii_resilience.stores,
    iii_resilience.testing,
]


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


def test_bare_import_loads_nothing_but_table_of_names() -> None:
    third = ("tenacity", "attrs", "attr", "opentelemetry", "asyncio", "json")
    assert loaded("import iii_resilience", "iii_resilience", *third) == [
        "iii_resilience",
        "iii_resilience.core",
        "iii_resilience.core.lazy_imports",
    ]


def test_decorated_plain_function_loads_no_asyncio() -> None:
    # What asyncio itself would load is the better part of what an import costs.
    statement = (
        "from iii_resilience import iii_retry; "
        "f = iii_retry(idempotent=True)(lambda: 1); assert f() == 1"
    )
    foreign = ("asyncio", "ssl", "socket", "difflib", "hashlib", "importlib.resources")
    own = ("client", "handling", "stores", "sdk", "config.files", "config.watch", "config.explain")
    assert loaded(statement, *foreign, *(f"iii_resilience.{name}" for name in own)) == []


def test_retry_of_plain_function_loads_no_asyncio_either() -> None:
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


def test_caller_loads_no_store_and_no_files() -> None:
    own = (
        "stores",
        "config.files",
        "config.engine_source",
        "cli",
        "handling.decorators.idempotency",
    )
    assert (
        loaded(
            "from iii_resilience import resilient",
            "sqlite3",
            "redis",
            *(f"iii_resilience.{name}" for name in own),
        )
        == []
    )


def typed_exports(package: ModuleType) -> dict[str, str]:
    """Exported name to its module, as a type checker reads them."""
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    return {
        str(alias.asname): str(node.module)
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_see_names_that_are_exported(package: ModuleType) -> None:
    typed = typed_exports(package)
    assert sorted(typed) == vars(package)["__all__"]
    for name, module in typed.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
        assert name in dir(package)


def test_missing_name_is_attribute_error_with_nearest() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'iii_rety'") as caught:
        _ = iii_resilience.iii_rety  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    assert (caught.value.name, caught.value.obj) == ("iii_rety", iii_resilience)


class TestExports:
    """Of a package that is made here, so that every part of it runs in this process."""

    @pytest.fixture
    def shop(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        package, orders = ModuleType("shop"), ModuleType("shop.orders")
        vars(orders).update(save=object(), load=object())
        monkeypatch.setitem(sys.modules, "shop", package)
        monkeypatch.setitem(sys.modules, "shop.orders", orders)
        found, listed, names = lazy_exports("shop", {"orders": "save load", "ghosts": "haunt"})
        vars(package).update(__getattr__=found, __dir__=listed, __all__=names)
        return package

    def test_names_are_those_of_all_modules_in_order(self, shop: ModuleType) -> None:
        assert shop.__all__ == ["haunt", "load", "save"]

    def test_name_is_object_of_its_module_and_kept(self, shop: ModuleType) -> None:
        assert "save" not in vars(shop)
        save = sys.modules["shop.orders"].save
        assert shop.save is save
        assert vars(shop)["save"] is save
        assert "load" not in vars(shop)

    def test_dir_lists_names_before_they_are_loaded(self, shop: ModuleType) -> None:
        assert dir(shop) == sorted({*vars(shop), "haunt", "load", "save"})

    def test_unknown_name_is_attribute_error_of_package(self, shop: ModuleType) -> None:
        with pytest.raises(AttributeError) as caught:
            _ = shop.saved
        assert str(caught.value) == "module 'shop' has no attribute 'saved'"
        assert (caught.value.name, caught.value.obj) == ("saved", shop)

    def test_module_that_is_missing_is_named(self, shop: ModuleType) -> None:
        with pytest.raises(ModuleNotFoundError, match=r"shop\.ghosts"):
            _ = shop.haunt


def test_test_may_put_something_in_place_of_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iii_resilience, "classify", len)
    assert iii_resilience.classify is len  # type: ignore[comparison-overlap]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each first import is tried in a fork")
def test_every_room_can_be_first_that_is_loaded() -> None:
    """Whoever is asked for first, there is no circle that only another order would hide."""
    code = """
import os, sys, iii_resilience, iii_resilience.core.lazy_imports
from importlib import import_module
import tenacity, attrs, asyncio, opentelemetry.metrics, opentelemetry.trace
for module in MODULES:
    child = os.fork()
    if not child:
        try:
            import_module(module)
        except BaseException as error:
            print(module, repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    modules = sorted(set(typed_exports(iii_resilience).values()))
    assert fresh(code.replace("MODULES", repr(modules))) == ""


def test_threads_that_load_at_once_get_one_whole_object() -> None:
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


def test_module_for_later_is_loaded_with_its_first_name() -> None:
    code = """
import sys
from iii_resilience.core.lazy_imports import lazy_exports, lazy_module
colorsys = lazy_module("colorsys")
print("colorsys" in sys.modules, colorsys.ONE_THIRD, "colorsys" in sys.modules)
"""
    assert fresh(code) == f"False {1 / 3} True"


def test_module_for_later_heeds_whoever_replaces_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = lazy_module("threading")
    assert module.Event is threading.Event
    another = object()
    monkeypatch.setattr(threading, "Event", another)
    assert module.Event is another


def test_missing_lazy_module_is_reported_on_use() -> None:
    missing = lazy_module("no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = missing.name

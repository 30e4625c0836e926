"""Every field of every row, pinned: a change of what users read or what is retried shows in a diff.

The other tests hold the rows against the documents and facts; this one holds them against
themselves. Run as a script it writes the rows down anew, to be read in the diff.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import attrs
import pytest
from support.paths import DATA

import iii_resilience.core.codes.lookup
from iii_resilience.core.codes import compose, engine_codes, local, rpc, sdk_codes, workers
from iii_resilience.core.codes.model import Code

PINNED = DATA / "code-rows.json"
TABLES = {
    "engine": engine_codes,
    "sdk": sdk_codes,
    "workers": workers,
    "compose": compose,
    "rpc": rpc,
}
TABLES["local"] = local


def rows_of(module: ModuleType) -> list[dict[str, Any]]:
    """The rows of one table as they stand in the file; what has its default is left out."""
    rows: Iterable[Code] = module.ROWS
    return [
        attrs.asdict(row, filter=lambda field, value: value != field.default or field.default == "")
        for row in rows
    ]


def statuses(module: Any) -> dict[str, Mapping[str, Any]]:
    """The rows by status, and that of every class at its edges."""
    edges = (0, 99, 302, 418, 499, 500, 502, 503, 504, 599, 600)
    return {
        str(status): attrs.asdict(module.http_status(status))
        for status in sorted({*module.HTTP_STATUS, *edges})
    }


def built_anew(module: ModuleType) -> ModuleType:
    """The module run once more from its source, without a place among the imported ones.

    The tables are made when a module is imported, so only building them shows what builds them.
    """
    spec = importlib.util.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


@pytest.mark.parametrize("name", TABLES)
def test_no_row_of_table_changes_unnoticed(name: str) -> None:
    pinned = json.loads(PINNED.read_text())
    assert rows_of(built_anew(TABLES[name])) == pinned[name]


def test_no_row_of_http_status_changes_unnoticed() -> None:
    pinned = json.loads(PINNED.read_text())
    assert statuses(built_anew(engine_codes)) == pinned["http"]


def test_tables_hold_rows_of_their_modules_in_order() -> None:
    codes = built_anew(iii_resilience.core.codes.lookup)
    for table, parts in (
        (codes.III, (engine_codes, sdk_codes, workers, compose)),
        (codes.RPC, (rpc,)),
        (codes.LOCAL, (local,)),
    ):
        rows = [row for part in parts for row in part.ROWS]
        assert list(table.items()) == [(row.code, row) for row in rows]
    assert (*codes.III.values(), *codes.RPC.values(), *codes.LOCAL.values()) == codes.ALL


if __name__ == "__main__":
    made: dict[str, Any] = {name: rows_of(module) for name, module in TABLES.items()}
    made["http"] = statuses(engine_codes)
    PINNED.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")

"""An engine that goes away in the middle of many idempotent calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import outages
from support.real_sdk import SDK

CLEAR = {
    "CONNECTION_LOST",
    "NOT_CONNECTED",
    "TIMEOUT",
    "function_not_found",
    "invocation_stopped",
}
# Before 0.24.4 a clean close ends an SDK's client for good, the worker's as well as the caller's.
ENDS = {"closed-1000", "closed-1001"} if not SDK.survives_clean_close else set()


KNOWS = pytest.mark.skipif(
    not SDK.sends_metadata, reason="before iii-sdk 0.21.3 no deadline travels with a call"
)


def each_kind() -> Iterator[Any]:
    """Each outage in full against both kinds of worker, and a short form against one of them."""
    for number, name in enumerate(outages.OUTAGES):
        for hardened in (False, True):
            who = f"{name}-{'hardened' if hardened else 'bare'}-worker"
            marks = [KNOWS] if hardened else []
            if hardened == bool(number % 2) or name == "down":
                yield pytest.param(name, hardened, outages.Setting(), id=who, marks=marks)
            full = outages.Setting(500, 100, 5.0, 30.0)
            yield pytest.param(
                name, hardened, full, id=f"{who}-in-full", marks=[*marks, pytest.mark.long]
            )


@pytest.mark.parametrize(("name", "hardened", "setting"), list(each_kind()))
def test_each_call_succeeds_or_fails_clearly(
    name: str, hardened: bool, setting: outages.Setting, tmp_path: Path
) -> None:
    if name in ENDS:
        setting = setting.ending()
    result = outages.run(outages.OUTAGES[name], setting, tmp_path, hardened=hardened)
    assert len(result.told) == setting.from_threads + setting.from_tasks
    assert set(result.codes) <= CLEAR | {"ok"}
    assert result.unreported == []
    assert result.late(setting.deadline + 5) == []
    assert result.ghosts == []
    assert result.too_often == []
    if name not in ENDS:
        assert result.back
        assert result.codes["ok"] >= 0.9 * len(result.told), result.codes

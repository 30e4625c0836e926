"""An engine that goes away in the middle of many idempotent calls."""

from __future__ import annotations

from pathlib import Path

import outages
import pytest
from real_sdk import SDK

CLEAR = {
    "CONNECTION_LOST",
    "NOT_CONNECTED",
    "TIMEOUT",
    "function_not_found",
    "invocation_stopped",
}
# Before 0.24.4 a clean close ends an SDK's client for good, the worker's as well as the caller's.
ENDS = {"closed-1000", "closed-1001"} if not SDK.survives_clean_close else set()


@pytest.mark.parametrize("name", outages.OUTAGES)
@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(outages.Setting(), id="short"),
        pytest.param(outages.Setting(500, 100, 5.0, 30.0), id="long", marks=pytest.mark.long),
    ],
)
def test_every_call_succeeds_or_says_clearly_what_became_of_it(
    name: str, setting: outages.Setting, tmp_path: Path
) -> None:
    if name in ENDS:
        setting = setting.ending()
    result = outages.run(outages.OUTAGES[name], setting, tmp_path)
    assert len(result.told) == setting.from_threads + setting.from_tasks
    assert set(result.codes) <= CLEAR | {"ok"}
    assert result.unreported == []
    assert result.late(setting.deadline + 5) == []
    assert result.ghosts == []
    assert result.too_often == []
    if name not in ENDS:
        assert result.back
        assert result.codes["ok"] >= 0.9 * len(result.told), result.codes

"""What each version of the SDK does, at the edges of every change."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from support.paths import ROOT

from iii_resilience.sdk.versions import (
    MIB,
    QUIRKS,
    UNKNOWN,
    Quirk,
    installed,
    quirks_table,
    sdk_of,
)

# version: cancels safely, survives a clean close, metadata, namespace, compact, send, receive
EDGES = {
    (0, 11, 3): (False, False, False, False, False, 16, 1),
    (0, 21, 2): (False, False, False, False, False, 16, 1),
    (0, 21, 3): (False, False, True, False, False, 16, 1),
    (0, 22, 1): (False, False, True, False, False, 16, 1),
    (0, 23, 0): (False, False, True, True, False, 16, 1),
    (0, 24, 3): (False, False, True, True, False, 16, 1),
    (0, 24, 4): (True, True, True, True, False, 16, 1),
    (0, 24, 5): (True, True, True, True, False, 16, 64),
    (0, 24, 6): (True, True, True, True, False, 16, 64),
    (0, 25, 0): (True, True, True, True, True, 64, 64),
    (0, 26, 0): (True, True, True, True, True, 64, 64),
}


@pytest.mark.parametrize(("number", "facts"), EDGES.items())
def test_version_does_what_matrix_says(
    number: tuple[int, ...], facts: tuple[bool, bool, bool, bool, bool, int, int]
) -> None:
    sdk = sdk_of(number)
    assert facts == (
        sdk.cancels_safely,
        sdk.survives_clean_close,
        sdk.sends_metadata,
        sdk.sends_namespace,
        sdk.compact,
        sdk.send_limit // MIB,
        sdk.receive_limit // MIB,
    )


def test_unknown_version_gets_harmless_assumptions() -> None:
    sdk = sdk_of(UNKNOWN)
    assert not sdk.cancels_safely
    assert not sdk.survives_clean_close
    assert sdk.sends_metadata, "older ones drop it without harm"
    assert sdk.sends_namespace, "to refuse it would be wrong where it works"
    assert sdk.name == "iii-sdk (unknown version)"


def test_installed_one_is_found() -> None:
    assert installed().version >= (0, 11, 3)
    assert installed().name.startswith("iii-sdk 0.")


@pytest.mark.parametrize(
    ("number", "applies"),
    [
        ((0, 9, 9), False),
        ((0, 10, 0), True),
        ((0, 24, 6), True),
        ((0, 25, 0), False),
        ((0, 25, 1), False),
    ],
)
def test_quirk_applies_from_since_to_before_until(number: tuple[int, ...], applies: bool) -> None:
    assert Quirk("a", (0, 10, 0), (0, 25, 0), "b").applies(number) is applies


@pytest.mark.parametrize("assumed", [True, False])
def test_unknown_version_has_what_is_assumed(assumed: bool) -> None:
    assert Quirk("a", None, None, "b", assumed=assumed).applies(UNKNOWN) is assumed


def test_each_quirk_is_one_row_with_span() -> None:
    assert len({quirk.name for quirk in QUIRKS}) == len(QUIRKS)
    for quirk in QUIRKS:
        assert quirk.until is None or quirk.until > (quirk.since or (0,)), quirk.name


def test_engine_notes_show_table() -> None:
    notes = (ROOT / "docs" / "engine-notes.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## 6\. .*?(?=^## 7\. )", notes, re.MULTILINE | re.DOTALL)
    assert quirks_table() in section, (
        "replace the table by what iii_resilience.sdk.versions.quirks_table() returns"
    )


def test_limits_of_one_size_follow_each_other() -> None:
    """Where the message's limit is 16 MiB, exactly one row says how it shows."""
    rows = [quirk for quirk in QUIRKS if re.search(r"above (16|64) MiB", quirk.name)]
    assert [(one.until, other.since) for one, other in pairwise(rows)] == [
        ((0, 24, 5), (0, 24, 5)),
        ((0, 25, 0), (0, 25, 0)),
    ]

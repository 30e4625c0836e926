"""What each version of the SDK does, at the edges of every change."""

from __future__ import annotations

import pytest

from iii_resilience.sdk.versions import UNKNOWN, installed, sdk_of

MIB = 1 << 20

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
def test_a_version_does_what_the_matrix_says(
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


def test_of_an_unknown_version_nothing_is_assumed_that_could_do_damage() -> None:
    sdk = sdk_of(UNKNOWN)
    assert not sdk.cancels_safely
    assert not sdk.survives_clean_close
    assert sdk.sends_metadata, "older ones drop it without harm"
    assert sdk.sends_namespace, "to refuse it would be wrong where it works"
    assert sdk.name == "iii-sdk (unknown version)"


def test_the_installed_one_is_found() -> None:
    assert installed().version >= (0, 11, 3)
    assert installed().name.startswith("iii-sdk 0.")

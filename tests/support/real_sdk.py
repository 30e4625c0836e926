"""The installed SDK under names that hold for every version, and what a version cannot do.

The wrapper's tests run against many versions of the SDK (`matrix/run.py`); what one of them lacks
is skipped with the reason.
"""

from __future__ import annotations

from typing import Any

import iii
import pytest

from iii_resilience.sdk.versions import installed

SDK = installed()

InvocationError: Any = getattr(iii, "InvocationError", None) or vars(iii)["IIIInvocationError"]
"""IIIInvocationError up to 0.19.7."""

RegistrationRejectedError: Any = getattr(iii, "RegistrationRejectedError", None)
"""None before 0.23."""


def needs(version: tuple[int, ...], what: str) -> pytest.MarkDecorator:
    """Skip a test where the SDK is older.

    Args:
        version: The first version that can do it.
        what: What older ones cannot do.
    """
    first = ".".join(map(str, version))
    return pytest.mark.skipif(SDK.version < version, reason=f"{what} (iii-sdk {first})")


def fixed_in(version: tuple[int, ...], what: str) -> pytest.MarkDecorator:
    """Skip a test where the SDK is newer.

    Args:
        version: The first version that is mended.
        what: What was wrong before.
    """
    first = ".".join(map(str, version))
    return pytest.mark.skipif(SDK.version >= version, reason=f"{what} (mended in iii-sdk {first})")

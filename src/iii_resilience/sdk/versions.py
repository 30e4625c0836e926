"""The quirks of the installed SDK version, as one frozen record per version.

The facts are those of docs/engine-notes.md, 2 and 6. Knows nothing of any client: what a client
shows itself (such as an existing method) is not here.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import attrs

_MIB = 1 << 20
UNKNOWN = (0,)
"""The version of an SDK that is not installed as a package."""


@attrs.frozen
class Sdk:
    """One version of the SDK.

    Attributes:
        version: ``(0, 25, 0)``; `UNKNOWN` where there is none to be found.
        cancels_safely: Whether a call may be cancelled inside the SDK. Before 0.24.4 the late
            answer to a cancelled call kills the client for good (docs/engine-notes.md, 6).
        survives_clean_close: Whether it reconnects after the engine closed with 1000 or 1001.
            Before 0.24.4 it stays "connected" and dead (docs/engine-notes.md, 6).
        sends_metadata: Whether ``metadata`` reaches the handler (0.21.3).
        sends_namespace: Whether ``namespace`` is sent; before 0.23 it is ignored and the call runs
            in the default one (docs/engine-notes.md, 1).
        compact: Whether messages are written as compact UTF-8 (0.25), not as ``json.dumps``
            writes by default.
        send_limit: Largest message that can be sent, in bytes: the SDK's own limit from 0.24.5 on;
            before, the engine cuts the connection above 16 MiB (docs/engine-notes.md, 2).
        receive_limit: Largest message it can receive, in bytes (docs/engine-notes.md, 2).
    """

    version: tuple[int, ...]
    cancels_safely: bool
    survives_clean_close: bool
    sends_metadata: bool
    sends_namespace: bool
    compact: bool
    send_limit: int
    receive_limit: int

    @property
    def name(self) -> str:
        """``iii-sdk 0.25.0``."""
        if self.version == UNKNOWN:
            return "iii-sdk (unknown version)"
        return f"iii-sdk {'.'.join(map(str, self.version))}"


def sdk_of(number: tuple[int, ...]) -> Sdk:
    """What a version does.

    Args:
        number: ``(0, 24, 6)``. Of an unknown one nothing is assumed that could do damage.
    """
    unknown = number == UNKNOWN
    return Sdk(
        number,
        cancels_safely=number >= (0, 24, 4),
        survives_clean_close=number >= (0, 24, 4),
        sends_metadata=unknown or number >= (0, 21, 3),
        sends_namespace=unknown or number >= (0, 23),
        compact=number >= (0, 25),
        send_limit=(64 if number >= (0, 25) else 16) * _MIB,
        receive_limit=(64 if number >= (0, 24, 5) else 1) * _MIB,
    )


@cache
def installed() -> Sdk:
    """The SDK that is installed."""
    try:
        return sdk_of(tuple(int(part) for part in version("iii-sdk").split(".")[:3]))
    except (PackageNotFoundError, ValueError):
        return sdk_of(UNKNOWN)

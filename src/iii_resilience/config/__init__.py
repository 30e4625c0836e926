"""Where policies come from: books of policies, policy files, and the engine's configuration.

Knows nothing of calls. Stable import path: ``iii_resilience.config.dump_policies``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iii_resilience.config.files.dump import dump_policies as dump_policies
    from iii_resilience.config.load import load_policies as load_policies
else:
    from iii_resilience.core.lazy_imports import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "files.dump": "dump_policies",
            "load": "load_policies",
        },
    )

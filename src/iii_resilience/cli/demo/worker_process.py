"""A worker process of the demo: plain handlers on the real SDK, which log what they do.

Run as ``python -m iii_resilience.cli.demo.worker_process URL NAME LOG``. It ends when its standard
input is closed, so no process outlives the demo. Knows nothing of the library, like any user's
worker.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from iii_resilience.cli.demo.execution_log import ExecutionLog


def main(url: str, name: str, path: str) -> None:
    """Serve the functions of one worker until standard input ends."""
    from iii import InitOptions, register_worker  # noqa: PLC0415 - only the demo needs the SDK
    from iii.iii_constants import ReconnectionConfig  # noqa: PLC0415

    log = ExecutionLog(path)

    def save(order: dict[str, Any]) -> dict[str, Any]:
        """Idempotent: the effect is keyed by the order."""
        log.started(order["order"])
        time.sleep(order.get("work", 0.0))
        if order.get("declined"):
            raise RuntimeError("card declined")
        log.keep(order["order"])
        return {"saved": order["order"]}

    def charge(order: dict[str, Any]) -> dict[str, Any]:
        """Not idempotent: each run charges once more."""
        log.started(order["order"])
        log.add(order["order"])
        time.sleep(order.get("work", 0.0))
        return {"charged": order["order"]}

    def render(order: dict[str, Any]) -> dict[str, Any]:
        """Slow the first time, quick when asked again."""
        runs = log.started(order["order"])
        time.sleep(order["slow"] if runs <= order["slow_runs"] else 0.0)
        log.keep(order["order"])
        return {"rendered": order["order"]}

    def ping(_: dict[str, Any]) -> str:
        """Called without a payload, as a beginner's first call is."""
        return "pong"

    served: dict[str, dict[str, Any]] = {
        "demo-orders": {
            "demo::ping": ping,
            "demo::save": save,
            "demo::charge": charge,
            "demo::admin": charge,
        },
        "demo-shipping": {"demo::ship": save, "demo::render": render},
    }
    worker: Any = register_worker(  # its types know only coroutines as handlers
        url,
        InitOptions(
            worker_name=name,
            otel={"enabled": False},
            reconnection_config=ReconnectionConfig(initial_delay_ms=50, max_delay_ms=50),
        ),
    )
    for function_id, handler in served[name].items():
        worker.register_function(function_id, handler)
    try:
        sys.stdin.read()
    finally:
        worker.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:4])

"""A worker process for the scenarios with triggers: it does what the lines of its input say.

Arguments: the engine's address, the worker's name, the function id, the triggers as JSON. Each line
is a command, each answer one line of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from typing import Any

from iii import InitOptions, register_worker
from iii.iii_constants import ReconnectionConfig
from support.patience import leave_patiently

from iii_resilience import resilient


def main(url: str, name: str, function_id: str, triggers: str) -> None:
    # What the SDK says of refused registrations and of register_trigger is expected here.
    logging.getLogger("iii.iii").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "register_trigger is deprecated")
    reconnection = ReconnectionConfig(initial_delay_ms=100, max_delay_ms=200)
    client: Any = register_worker(
        url,
        InitOptions(worker_name=name, otel={"enabled": False}, reconnection_config=reconnection),
    )
    worker = resilient(client, keep_registered=True)
    if not os.environ.get("III_LONG"):
        leave_patiently()
    events: list[Any] = []
    lock = threading.Lock()

    def handle(data: Any) -> dict[str, Any]:
        with lock:
            events.append(data.get("scheduled_time") or data.get("number"))
        return {"status_code": 200, "body": {"worker": name}}

    worker.register_function(function_id, handle)
    for trigger in json.loads(triggers):
        worker.register_trigger({**trigger, "function_id": function_id})
    _say("ready")
    for line in sys.stdin:
        command = line.strip()
        if command == "state":
            _say([[r.kind, r.state.value, r.trigger_type] for r in worker.registrations()])
        elif command == "events":
            with lock:
                _say(events)
        elif command == "drain":
            _say(worker.drain(30).handed_over)
        elif command == "standbys":
            _say(sorted(worker._handlers._standby._others))
        elif command == "shutdown":
            worker.shutdown()
            _say("shut down")
        elif command == "cut":
            client._loop.call_soon_threadsafe(client._ws.transport.abort)
            _say("cut")


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

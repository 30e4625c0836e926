"""A deploy without downtime: two workers, one function, and no failed call.

    python examples/rolling_deploy.py --loopback           # the whole deploy, with an engine
    III_URL=... python examples/rolling_deploy.py --name orders-1    # one worker

Needs: pip install 'iii-resilience[iii,testing]'
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from iii import InitOptions, register_worker

from iii_resilience import Enqueue, Enqueued, RetryPolicy, resilient
from iii_resilience.testing import LoopbackEngine


# [worker]
def serve(name: str, url: str | None = None) -> None:
    """Serve the function until SIGTERM."""
    client = register_worker(url, InitOptions(worker_name=name))
    worker = resilient(client, keep_registered=True)
    worker.register_function("orders::refund", lambda order: {"id": order["id"], "by": name})
    worker.drain_at_sigterm(timeout=30)
    while True:
        for registration in worker.registrations():  # none any more while it drains
            print(name, registration.state.value, flush=True)  # "owner", or "standby": it is ready
        time.sleep(1)


# [end]


def start(name: str, url: str) -> subprocess.Popen[str]:
    """Start a worker as a process of its own."""
    command = [sys.executable, __file__, "--name", name, "--url", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_until(worker: subprocess.Popen[str], state: str) -> None:
    """Read what a worker prints until it is ready."""
    for line in worker.stdout or ():
        if line.split()[-1] == state:
            return
    raise RuntimeError(f"the worker has ended before it was {state}")


# [caller]
# Between the two owners the function has none, for a few milliseconds: that call goes to the queue.
POLICY = RetryPolicy(deadline=20.0, ready_timeout=10.0, fallback=Enqueue("refunds"))


def call(caller: Any, seconds: float) -> Counter[str]:
    """Call the function for a while; how often which worker has answered, or the queue."""
    answered: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        request = {"function_id": "orders::refund", "payload": {"id": "o-1"}}
        answer = caller.trigger(request, idempotent=True, accept_enqueued=True)
        answered["queue" if isinstance(answer, Enqueued) else answer["by"]] += 1
        time.sleep(0.01)
    return answered


# [end]


def loopback() -> None:
    """Deploy under calls; a call that fails ends it with an error."""
    with LoopbackEngine() as engine, ExitStack() as stack:
        old = start("orders-1", engine.url)
        stack.callback(old.kill)
        wait_until(old, "owner")
        new = start("orders-2", engine.url)
        stack.callback(new.kill)
        wait_until(new, "standby")
        engine.define_queue("refunds")
        client = register_worker(engine.url, InitOptions(worker_name="caller"))
        with resilient(client, policies=POLICY) as caller:
            before = call(caller, 5.0)  # the old worker learns of its standby within seconds
            old.send_signal(signal.SIGTERM)
            after = call(caller, 2.0)
            code = old.wait(timeout=60)
    calls = before + after
    print(f"{calls.total()} calls, none failed, {calls['queue']} went to the queue")
    print(f"the old worker exited with {code}")
    print(f"after SIGTERM the new worker answered {after['orders-2']}")


def main() -> None:
    """Run the deploy, or one worker."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--loopback", action="store_true", help="run a whole deploy")
    parser.add_argument("--name", default="orders-1", help="the name of one worker")
    parser.add_argument("--url", help="the engine's address; III_URL without it")
    given = parser.parse_args()
    if given.loopback:
        loopback()
    else:
        serve(given.name, given.url)


if __name__ == "__main__":
    main()

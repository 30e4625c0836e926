"""What it costs to classify one error, in microseconds, best of many runs.

Prints one line for each kind of error. Where the peer ``redress`` is installed, prints its
``default_classifier`` beside it on the same exceptions. Knows nothing of retries.
"""

from __future__ import annotations

import importlib
import timeit
from collections.abc import Callable
from functools import partial

from iii_resilience.core.classify import classify


class InvocationError(Exception):
    """The shape of the SDK's exception (0.20 and later); the SDK itself is not needed here."""

    def __init__(self, code: str, message: str, function_id: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.function_id = function_id
        self.stacktrace = None
        self.invocation_id = None


S102 = '{"type":"transient","code":"S102","message":"image failed","retryable":true}'
ERRORS: dict[str, BaseException] = {
    "TIMEOUT": InvocationError("TIMEOUT", "invocation timed out after 30000ms", "orders::get"),
    "invocation_stopped": InvocationError(
        "invocation_stopped", "Invocation stopped", "orders::get"
    ),
    "function_not_found": InvocationError(
        "function_not_found", "Function orders::get not found in namespace default.", "orders::get"
    ),
    "invocation_failed, plain text": InvocationError("invocation_failed", "boom", "orders::get"),
    "invocation_failed, sandbox JSON": InvocationError(
        "invocation_failed", f"handler error: {S102}", "sandbox::exec"
    ),
    "invocation_failed, 10 KB": InvocationError("invocation_failed", "x" * 10_000, "orders::get"),
    "invocation_failed, 10 MB": InvocationError("invocation_failed", "x" * 10_000_000, "o::get"),
    "ConnectionResetError": ConnectionResetError("reset"),
    "TypeError": TypeError("bug"),
}


def microseconds(call: Callable[[], object]) -> float:
    """The best of 20 runs, in microseconds for one call."""
    timer = timeit.Timer(call)
    number = max(1, timer.autorange()[0] // 10)
    return min(timer.repeat(20, number)) / number * 1e6


def main() -> None:
    """Print the table."""
    try:
        peer = importlib.import_module("redress").default_classifier
    except ImportError:
        peer = None
    for name, error in ERRORS.items():
        ours = microseconds(partial(classify, error))
        line = f"{name:36} {ours:8.2f} µs"
        if peer is not None:
            line += f"   redress {microseconds(partial(peer, error)):8.2f} µs"
        print(line)


if __name__ == "__main__":
    main()

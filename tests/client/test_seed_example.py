"""The Python example of the documents that this library was made from, line by line.

Its exceptions are those of iii-sdk 0.11.3 to 0.18.0; later ones never had them, or dropped them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.real_sdk import SDK

from iii_resilience import RetryPolicy, report_for
from iii_resilience.client.resilient import Resilient
from iii_resilience.testing import AnswerError, Drop, LoopbackEngine

pytestmark = pytest.mark.skipif(
    not (0, 11, 3) <= SDK.version < (0, 19),
    reason="IIIForbiddenError and IIITimeoutError are in iii-sdk 0.11.3 to 0.18.0 only",
)

EXAMPLE = """\
from iii import IIIForbiddenError, IIIInvocationError, IIITimeoutError

try:
    result = iii.trigger({"function_id": "orders::charge", "payload": payload})
except IIIForbiddenError:
    raise RuntimeError("Policy denied orders::charge")
except IIITimeoutError:
    raise RuntimeError("orders::charge timed out")
except IIIInvocationError as exc:
    if exc.code == "timeout":
        raise RuntimeError("orders::charge timed out")
    raise RuntimeError(f"{exc.code}: {exc.message}")
"""


@pytest.fixture
def run(engine: LoopbackEngine, target: Any, caller: Resilient) -> Callable[[], Any]:
    """The example, with `resilient(worker)` in the client's place."""
    target.register_function("orders::charge", lambda order: {"charged": order["amount"]})
    engine.wait_registered("orders::charge")

    def run() -> Any:
        names: dict[str, Any] = {"iii": caller, "payload": {"amount": 7}}
        exec(EXAMPLE, names)
        return names["result"]

    return run


def test_success_is_result(run: Callable[[], Any]) -> None:
    assert run() == {"charged": 7}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (AnswerError("FORBIDDEN", "no"), "Policy denied orders::charge"),
        (AnswerError("TIMEOUT", "too slow"), "orders::charge timed out"),
        (AnswerError("timeout", "too slow"), "orders::charge timed out"),
        (AnswerError("function_not_found", "not there"), "function_not_found: not there"),
        (AnswerError("NO_SUCH_CODE", "odd"), "NO_SUCH_CODE: odd"),
    ],
)
def test_each_failure_is_caught_by_its_own_class(
    engine: LoopbackEngine, run: Callable[[], Any], answer: AnswerError, said: str
) -> None:
    engine.inject("orders::charge", answer)
    with pytest.raises(RuntimeError) as caught:
        run()
    assert str(caught.value) == said
    assert len(engine.calls("orders::charge")) == 1


@pytest.mark.usefixtures("sdk_times_out_first")
def test_sdk_own_timeout_is_caught_as_one(
    engine: LoopbackEngine, target: Any, caller: Resilient
) -> None:
    import iii

    timed_out: Any = vars(iii)["IIITimeoutError"]
    target.register_function("orders::charge", lambda order: order)
    engine.wait_registered("orders::charge")
    engine.inject("orders::charge", Drop())
    with pytest.raises(timed_out) as caught:
        caller.trigger({"function_id": "orders::charge"}, policy=RetryPolicy(deadline=0.2))
    assert report_for(caught.value) is not None

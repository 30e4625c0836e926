"""`discover`: waits until a function is registered, without calling it.

It is the remedy for a failure with the hint ``discover``. It polls ``engine::functions::info``.
Knows nothing of retries or policies.
"""

from __future__ import annotations

import time
from difflib import get_close_matches

import attrs

from iii_resilience.core.classify import classify
from iii_resilience.core.codes.model import Category
from iii_resilience.core.errors import NotConnectedError
from iii_resilience.sdk.client_adapter import ClientAdapter, SdkClient
from iii_resilience.sdk.engine_api import (
    FUNCTIONS_INFO,
    FunctionStatus,
    call_engine,
    functions_info_request,
    read_functions_info,
)

_LIST = "engine::functions::list"
_POLL = 0.1  # a request takes about 1 ms (docs/engine-notes.md, 3)
_ANSWER_WITHIN = 1.0
_NEAR = 5


@attrs.frozen
class Discovery:
    """Whether a function is there; true if it is.

    Attributes:
        function_id: The function that was looked up.
        there: Whether a call would reach it (or be answered ``FORBIDDEN``).
        owner: Name of the worker that registered it, or None where it is not known.
        near: If it is missing and ``near`` was set: registered ids with a similar spelling,
            best first.
    """

    function_id: str
    there: bool
    owner: str | None = None
    near: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.there


def discover(
    worker: SdkClient,
    function_id: str,
    timeout: float = 5.0,
    *,
    namespace: str | None = None,
    near: bool = False,
) -> Discovery:
    """Wait until a function is registered; it is not called.

    Args:
        worker: What ``iii.register_worker()`` or `resilient` returned.
        function_id: The function.
        timeout: Seconds to wait at most; 0 checks once.
        namespace: Where it is looked for; None is the namespace that this worker's calls go to.
        near: Whether to look for ids that are spelt alike where it stays missing.

    Returns:
        What was found.

    Raises:
        NotConnectedError: There was no connection to the engine in that time.
        RuntimeError: This is the SDK's own thread: call it from another one.
        Exception: The engine refused the question (``FORBIDDEN``), or does not know it.
    """
    if namespace is None:
        namespace = ClientAdapter(worker).namespace
    until = time.monotonic() + timeout
    while True:
        left = until - time.monotonic()
        found = _look(worker, function_id, namespace, max(left, _ANSWER_WITHIN))
        if found.there or left <= 0:
            break
        time.sleep(max(0.0, min(_POLL, until - time.monotonic())))
    if found.there or not near:
        return found
    return attrs.evolve(found, near=_alike(worker, function_id))


def _look(worker: SdkClient, function_id: str, namespace: str | None, timeout: float) -> Discovery:
    payload = functions_info_request([function_id], namespace)["payload"]
    missing = FunctionStatus(there=False)
    try:
        answer = call_engine(worker, FUNCTIONS_INFO, payload, timeout=timeout)
    except NotConnectedError:
        raise
    except Exception as error:
        if classify(error, function_id=FUNCTIONS_INFO).category is Category.TRANSIENT:
            return Discovery(function_id, there=False)  # the check is repeated while there is time
        raise
    try:
        status = read_functions_info(answer, namespace).get(function_id, missing)
    except LookupError:
        status = missing
    return Discovery(function_id, status.there, status.owner)


def _alike(worker: SdkClient, function_id: str) -> tuple[str, ...]:
    answer = call_engine(worker, _LIST, {}, timeout=_ANSWER_WITHIN)
    items = answer.get("functions") if isinstance(answer, dict) else None
    ids = {
        item["function_id"]
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict) and isinstance(item.get("function_id"), str)
    }
    folded = {one.lower(): one for one in sorted(ids)}
    matches = get_close_matches(function_id.lower(), folded, n=_NEAR, cutoff=0.6)
    return tuple(folded[match] for match in matches)

"""Retry and resilience policies for Python programs that call functions through the iii engine.

Three ways in: the decorator `iii_retry` (and the loop `retrying`) around your own code, policy
files read by `load_policies`, and `resilient(worker)` around the SDK's client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iii_resilience.lazy import lazily

if TYPE_CHECKING:
    from iii_resilience.backoff import Backoff
    from iii_resilience.book import PolicyBook, use_policies
    from iii_resilience.classify import classify
    from iii_resilience.client import resilient
    from iii_resilience.codes import register_codes
    from iii_resilience.codes.model import Category, Execution
    from iii_resilience.config import load_policies
    from iii_resilience.decide import Decision, Reason
    from iii_resilience.discover import Discovery, discover
    from iii_resilience.engine_policies import policies_from_engine as policies_from_engine
    from iii_resilience.ensure import ensure_queue
    from iii_resilience.errors import (
        BulkheadFullError,
        CircuitOpenError,
        ConfigError,
        ConnectionLostError,
        InvalidPayloadError,
        NotConnectedError,
        PayloadTooLargeError,
        RpcError,
    )
    from iii_resilience.failure import Failure
    from iii_resilience.guards.breaker import Breaker
    from iii_resilience.guards.budget import Budget
    from iii_resilience.guards.bulkhead import Bulkhead
    from iii_resilience.hints import Hint
    from iii_resilience.policy import Enqueue, Enqueued, Reroute, RetryPolicy
    from iii_resilience.queues import Queue
    from iii_resilience.report import Attempt, RetryReport, hint_for, report_for
    from iii_resilience.retry import iii_retry, retrying
    from iii_resilience.rpc import check_rpc

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "Backoff",
    "Breaker",
    "Budget",
    "Bulkhead",
    "BulkheadFullError",
    "Category",
    "CircuitOpenError",
    "ConfigError",
    "ConnectionLostError",
    "Decision",
    "Discovery",
    "Enqueue",
    "Enqueued",
    "Execution",
    "Failure",
    "Hint",
    "InvalidPayloadError",
    "NotConnectedError",
    "PayloadTooLargeError",
    "PolicyBook",
    "Queue",
    "Reason",
    "Reroute",
    "RetryPolicy",
    "RetryReport",
    "RpcError",
    "check_rpc",
    "classify",
    "discover",
    "ensure_queue",
    "hint_for",
    "iii_retry",
    "load_policies",
    "register_codes",
    "report_for",
    "resilient",
    "retrying",
    "use_policies",
]

lazily(
    __name__,
    {
        "Attempt": "report",
        "Backoff": "backoff",
        "Breaker": "guards.breaker",
        "Budget": "guards.budget",
        "Bulkhead": "guards.bulkhead",
        "BulkheadFullError": "errors",
        "Category": "codes.model",
        "CircuitOpenError": "errors",
        "ConfigError": "errors",
        "ConnectionLostError": "errors",
        "Decision": "decide",
        "Discovery": "discover",
        "Enqueue": "policy",
        "Enqueued": "policy",
        "Execution": "codes.model",
        "Failure": "failure",
        "Hint": "hints",
        "InvalidPayloadError": "errors",
        "NotConnectedError": "errors",
        "PayloadTooLargeError": "errors",
        "PolicyBook": "book",
        "Queue": "queues",
        "Reason": "decide",
        "Reroute": "policy",
        "RetryPolicy": "policy",
        "RetryReport": "report",
        "RpcError": "errors",
        "check_rpc": "rpc",
        "classify": "classify",
        "discover": "discover",
        "ensure_queue": "ensure",
        "hint_for": "report",
        "iii_retry": "retry",
        "load_policies": "config",
        "policies_from_engine": "engine_policies",
        "register_codes": "codes",
        "report_for": "report",
        "resilient": "client",
        "retrying": "retry",
        "use_policies": "book",
    },
)

"""Retry and resilience policies for Python programs that call functions through the iii engine.

There are three ways to use it: the decorator `iii_retry` (and the loop `retrying`) around your own
code, policy files read by `load_policies`, and `resilient(worker)` around the SDK's client.

Stable import paths are this package, ``iii_resilience.handling``, ``iii_resilience.stores``,
``iii_resilience.testing`` and ``iii_resilience.config.dump_policies``. Everything else is private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iii_resilience.client.discovery import Discovery as Discovery
    from iii_resilience.client.discovery import discover as discover
    from iii_resilience.client.queue_setup import ensure_queue as ensure_queue
    from iii_resilience.client.resilient import resilient as resilient
    from iii_resilience.config.book import PolicyBook as PolicyBook
    from iii_resilience.config.default_book import use_policies as use_policies
    from iii_resilience.config.engine_source import policies_from_engine as policies_from_engine
    from iii_resilience.config.load import load_policies as load_policies
    from iii_resilience.config.queue_definition import Queue as Queue
    from iii_resilience.core.backoff import Backoff as Backoff
    from iii_resilience.core.classifiers.registered_exceptions import (
        register_exceptions as register_exceptions,
    )
    from iii_resilience.core.classifiers.rpc_response import check_rpc as check_rpc
    from iii_resilience.core.classify import classify as classify
    from iii_resilience.core.codes.lookup import register_codes as register_codes
    from iii_resilience.core.codes.model import Category as Category
    from iii_resilience.core.codes.model import Execution as Execution
    from iii_resilience.core.decide import Decision as Decision
    from iii_resilience.core.decide import Reason as Reason
    from iii_resilience.core.errors import BulkheadFullError as BulkheadFullError
    from iii_resilience.core.errors import CircuitOpenError as CircuitOpenError
    from iii_resilience.core.errors import ConfigError as ConfigError
    from iii_resilience.core.errors import ConnectionLostError as ConnectionLostError
    from iii_resilience.core.errors import InvalidPayloadError as InvalidPayloadError
    from iii_resilience.core.errors import NotConnectedError as NotConnectedError
    from iii_resilience.core.errors import PayloadTooLargeError as PayloadTooLargeError
    from iii_resilience.core.errors import RpcError as RpcError
    from iii_resilience.core.failure import Failure as Failure
    from iii_resilience.core.guards.breaker import Breaker as Breaker
    from iii_resilience.core.guards.budget import Budget as Budget
    from iii_resilience.core.guards.bulkhead import Bulkhead as Bulkhead
    from iii_resilience.core.guards.concurrency_limit import Limit as Limit
    from iii_resilience.core.hints import Hint as Hint
    from iii_resilience.core.policy import Enqueue as Enqueue
    from iii_resilience.core.policy import Enqueued as Enqueued
    from iii_resilience.core.policy import Reroute as Reroute
    from iii_resilience.core.policy import RetryPolicy as RetryPolicy
    from iii_resilience.core.report import Attempt as Attempt
    from iii_resilience.core.report import RetryReport as RetryReport
    from iii_resilience.core.report import hint_for as hint_for
    from iii_resilience.core.report import report_for as report_for
    from iii_resilience.handling.handler_errors import AuthError as AuthError
    from iii_resilience.handling.handler_errors import NotFoundError as NotFoundError
    from iii_resilience.handling.handler_errors import PayloadError as PayloadError
    from iii_resilience.handling.handler_errors import PermanentError as PermanentError
    from iii_resilience.handling.handler_errors import TransientError as TransientError
    from iii_resilience.retry.decorator import iii_retry as iii_retry
    from iii_resilience.retry.decorator import retrying as retrying
else:
    from iii_resilience.core.lazy_imports import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "client.discovery": "Discovery discover",
            "client.queue_setup": "ensure_queue",
            "client.resilient": "resilient",
            "config.book": "PolicyBook",
            "config.default_book": "use_policies",
            "config.engine_source": "policies_from_engine",
            "config.load": "load_policies",
            "config.queue_definition": "Queue",
            "core.backoff": "Backoff",
            "core.classifiers.rpc_response": "check_rpc",
            "core.classifiers.registered_exceptions": "register_exceptions",
            "core.classify": "classify",
            "core.codes.lookup": "register_codes",
            "core.codes.model": "Category Execution",
            "core.decide": "Decision Reason",
            "core.errors": (
                "BulkheadFullError CircuitOpenError ConfigError ConnectionLostError "
                "InvalidPayloadError NotConnectedError PayloadTooLargeError RpcError"
            ),
            "core.failure": "Failure",
            "core.guards.breaker": "Breaker",
            "core.guards.budget": "Budget",
            "core.guards.bulkhead": "Bulkhead",
            "core.guards.concurrency_limit": "Limit",
            "core.hints": "Hint",
            "core.policy": "Enqueue Enqueued Reroute RetryPolicy",
            "core.report": "Attempt RetryReport hint_for report_for",
            "handling.handler_errors": (
                "AuthError NotFoundError PayloadError PermanentError TransientError"
            ),
            "retry.decorator": "iii_retry retrying",
        },
    )

__version__ = "0.2.0"

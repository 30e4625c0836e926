"""The commented policy file that ``iii-resilience init`` writes.

Knows nothing of existing files.
"""

from __future__ import annotations

STARTER = """\
# yaml-language-server: $schema={schema}
#
# How calls through iii are retried. To check it, and to see what a function gets and why:
#
#     iii-resilience check {name}
#     iii-resilience show payments::charge --policies {name}
#
# Times are whole milliseconds. FORBIDDEN and function_not_found are never retried, and nothing is
# that is not declared idempotent, by a rule below or in code.
version: 1

policies:
  # Every field is optional; what is left out has the value of the built-in default.
  default:
    attempts: 4                # in all, the first one included; 1 never retries
    deadline_ms: 60000         # no retry starts later than this
    backoff: {{base_ms: 200, factor: 2, cap_ms: 20000, throttled_base_ms: 1000, jitter: full}}
    budget: {{ratio: 0.1, burst: 10, min_per_second: 0.005}}  # permits for retries

  # For calls that a person waits for.
  interactive:
    extends: default
    attempts: 3
    deadline_ms: 5000
    backoff: {{base_ms: 100, cap_ms: 1000}}

  # For calls that move money: the breaker stops calling what mostly fails.
  payments:
    extends: interactive
    attempts: 5
    deadline_ms: 20000
    breaker: {{failure_rate: 0.5, window_ms: 30000, min_calls: 20, open_ms: 10000, probes: 3}}
    # Where a call may be finished later (and is made with accept_enqueued=True):
    fallback: {{enqueue: payments-retry}}

# Which policy a function has: its exact id wins, then the longest prefix, then the first rule.
rules:
  - {{function: "payments::*", policy: payments}}
  # Say idempotent only where calling twice does what calling once does.
  - {{function: "payments::status", policy: interactive, idempotent: true}}

# For functions that no rule covers.
default: default

# The queues that fallbacks name.
queues:
  payments-retry: {{max_retries: 5, backoff_ms: 1000, timeout_ms: 60000, concurrency: 4}}

# Error codes of your own services: transient, auth, not-found, payload or permanent.
codes:
  OUT_OF_STOCK: {{category: permanent, remedy: order more}}
"""


def starter(name: str, schema: str) -> str:
    """The text of the file.

    Args:
        name: What the file will be called.
        schema: Where its JSON Schema lies, as seen from the file.
    """
    return STARTER.format(name=name, schema=schema)

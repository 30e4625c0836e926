"""What each trigger type does when two workers serve one function: who is to register it, and why.

Each row was observed on a running engine (docs/engine-notes.md, 16); a type without a row is
treated as `DEFAULT` says.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs


@attrs.frozen
class TriggerTypeRule:
    """What holds for one trigger type.

    Attributes:
        trigger_type: Its id.
        every_worker: Whether each worker that serves the function registers the trigger, and not
            its owner alone.
        overlap: Whether a new registration may stand before the old one is given up. Where it may
            not, the old one is given up first.
        lost_with: Which other registration, when it is given up, takes this one with it silently:
            ``none``, a ``later`` one, or ``any``.
        why: What was observed.
        observed_on: Where that was observed.
    """

    trigger_type: str
    every_worker: bool
    overlap: bool
    lost_with: Literal["none", "later", "any"]
    why: str
    observed_on: str


_ENGINE: Final = "engine 0.23.0-rc.4, SDK 0.25.0"
_EACH_FIRES: Final = (
    "each registration calls the function by itself, so two workers make two calls of one event; "
    "the others go on when one is given up"
)

RULES: Final = (
    TriggerTypeRule(
        "http",
        every_worker=False,
        overlap=True,
        lost_with="later",
        why=(
            "the engine keeps one entry for a method and path: each registration overwrites it, "
            "and it is removed with the one that was registered last"
        ),
        observed_on=_ENGINE,
    ),
    TriggerTypeRule(
        "cron",
        every_worker=False,
        overlap=False,
        lost_with="none",
        why=_EACH_FIRES,
        observed_on=_ENGINE,
    ),
    TriggerTypeRule(
        "subscribe",
        every_worker=False,
        overlap=False,
        lost_with="any",
        why=(
            "each subscription calls the function by itself, and when one is given up all "
            "subscriptions of its topic are removed"
        ),
        observed_on=_ENGINE,
    ),
    TriggerTypeRule(
        "durable:subscriber",
        every_worker=True,
        overlap=True,
        lost_with="none",
        why=(
            "two subscriptions of one function deliver a message once; what is published while "
            "no worker owns the function is kept for the subscription that stands, and lost "
            "where none does"
        ),
        observed_on=f"{_ENGINE}, iii-queue and the queue worker",
    ),
    *(
        TriggerTypeRule(
            name,
            every_worker=False,
            overlap=False,
            lost_with="none",
            why=_EACH_FIRES,
            observed_on=_ENGINE,
        )
        for name in ("state", "stream", "configuration")
    ),
)
"""The types that were observed."""

DEFAULT: Final = TriggerTypeRule(
    "*",
    every_worker=False,
    overlap=False,
    lost_with="any",
    why="not observed: one registration cannot call twice, and to register again does no harm",
    observed_on="",
)
"""Any other type, that of a user's own worker for example."""

_BY_TYPE: Final = {rule.trigger_type: rule for rule in RULES}


def rule_of(trigger_type: str | None) -> TriggerTypeRule:
    """The rule of a trigger type."""
    return _BY_TYPE.get(trigger_type or "", DEFAULT)

"""Decides whether a code that means "not executed" is proof of that.

The last to fail chooses the code: Rust and Go handlers and HTTP endpoints may pass a downstream
code through, so FORBIDDEN or function_not_found can come from inside an executed target. They prove
that nothing ran only if the message names the called function or namespace (docs/engine-notes.md,
8). Knows nothing of categories: a denial remains a denial.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from iii_resilience.core.classifiers.text_patterns import LIMIT
from iii_resilience.core.codes.model import Execution

DOUBTFUL = frozenset(
    {"FORBIDDEN", "function_not_found", "function_not_invokable", "INVALID_NAMESPACE"}
)
"""The codes whose not_executed holds only by their message."""


# The engine's and the SDKs' own sentences about a function (docs/engine-notes.md, 1 and
# 12). The id is the user's and may hold anything, so only the words around
# it are matched.
_FUNCTION = re.compile(
    r"[Ff]unction (?P<quote>'?)(?P<id>[^\n]{0,1024}?)(?P=quote) "
    r"(?:not found(?: in namespace |\.?$)|not allowed (?:\(|in namespace )"
    r"|is not visible to this session)"
)
_NAMESPACE = re.compile(r"namespace '(?P<id>[^'\n]{0,256})' not allowed for this session")
# In any other sentence: the words that look like a function id.
_BETWEEN = re.compile(r"[\s'\"`,;()\[\]{}<>]+")


def execution(message: str, function_id: str | None, namespace: str | None = None) -> Execution:
    """What a doubtful code's message says about the called function having run.

    Args:
        message: The message, not empty.
        function_id: The function that was called, or None where it is not known.
        namespace: The namespace it was called in, or None where it is not known.

    Returns:
        ``not_executed`` where the message names the called function or namespace (as a whole,
        not as part of a longer one), ``executed`` where it names another: a nested call failed.
        ``maybe_executed`` where it names none, or both, or what was called is not known.
    """
    if message.startswith("namespace ") and (found := _NAMESPACE.match(message)) is not None:
        return _verdict({found["id"]}, namespace)
    if function_id is None:
        return Execution.MAYBE_EXECUTED
    if message.startswith(f"Function {function_id} not found in namespace "):
        return Execution.NOT_EXECUTED  # nearly every one: the engine's own words
    text = message[:LIMIT]
    if (found := _FUNCTION.match(text)) is not None:
        return _verdict({found["id"]}, function_id)
    names = {word.rstrip(".:!?") for word in _BETWEEN.split(text) if "::" in word}
    if function_id not in names and _stands_in(text, function_id):
        names.add(function_id)
    return _verdict(names, function_id)


def _stands_in(text: str, function_id: str) -> bool:
    """Whether an id stands in the text as a whole word; a full stop behind it is none of it."""
    start = text.find(function_id) if function_id else -1
    while start >= 0:
        end = start + len(function_id)
        behind = text[end : end + 2]
        ends = not behind or not _joins(behind[0]) or (behind[0] in ".:" and behind[1:].isspace())
        if (not start or not _joins(text[start - 1])) and (ends or behind in {".", ":"}):
            return True
        start = text.find(function_id, start + 1)
    return False


def _joins(character: str) -> bool:
    """Whether a character beside an id makes it part of a longer one."""
    return character.isalnum() or character in "_-.:/"


def _verdict(names: AbstractSet[str], called: str | None) -> Execution:
    if called is None or not names:
        return Execution.MAYBE_EXECUTED
    if called not in names:
        return Execution.EXECUTED
    return Execution.NOT_EXECUTED if len(names) == 1 else Execution.MAYBE_EXECUTED

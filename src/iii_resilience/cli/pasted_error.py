"""The error in a pasted text: a code, JSON, a printed exception, a traceback, or lines of a log.

Knows nothing of what the error means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from iii_resilience.cli.terminal_text import plain
from iii_resilience.core.classifiers.printed_exceptions import from_name
from iii_resilience.core.classifiers.text_patterns import legacy
from iii_resilience.core.codes.lookup import LONGEST_CODE, find
from iii_resilience.core.codes.model import Category, Execution
from iii_resilience.core.failure import LIBRARY, Failure

_DEPTH = 4  # records inside records
_LONGEST_ERROR = 25  # lines of what one exception says
_LINES = 2_000  # of a log; the last ones count

# What stands before a colon: a code, or the name of a class.
_HEAD = re.compile(r"(?<![\w./-])([A-Za-z_][\w./-]{0,255}): ?")
_CLASS = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*\Z")
_LOOKS_RAISED = re.compile(r"(?:Error|Exception|Timeout|Exit|Interrupt|Expired|Disconnected)\Z")
# This library's own records, and its note in a traceback.
_RECORD = re.compile(
    r"(?:(?:attempt \d+|the handler) failed with|a message .{0,300}is parked:)"
    r" (HTTP \d{3}|\S{1,128}) \(([a-z-]+)"
)
_NOTE = re.compile(
    r"iii-resilience: \d+ attempts? in .*?; last: (HTTP \d{3}|\S{1,128}) \(([a-z-]+)"
)
_CATEGORIES = {member.value: member for member in Category}
# Where records of programs that log JSON, and Docker's own, keep what was printed.
_TEXTS = ("log", "exc_info", "exception", "exc_text", "stack", "error", "message", "msg", "event")


def error_in(text: str) -> object:
    """The error that a text holds, as `classify` takes it, or a failure that is known already.

    Args:
        text: What was pasted: a code; a wire error body, a frame or a response as JSON;
            ``iii.errors.InvocationError: code: message``; a whole traceback; or lines of a log,
            as ``docker logs`` prints them. Of several errors the last one counts.

    Raises:
        ValueError: There is none.
    """
    text = plain(text).strip()
    if not text:
        raise ValueError("there is nothing to explain: give a code, or paste an error")
    if text[0] in "{[":
        return _in_json(text)
    found = _in_lines(text)
    if found is not None:
        return found
    if "\n" in text:
        raise ValueError("no error was found in this text: paste the line that names it")
    return text


def _in_json(text: str) -> object:
    try:
        return _in_data(json.loads(text), 0)
    except (ValueError, RecursionError) as error:
        if isinstance(error, _NoError):
            raise
        pair = legacy(text)  # the dict that an old SDK prints
        if pair is not None:
            return {"code": pair[0], "message": pair[1]}
        found = _in_lines(text)  # several records of JSON, one a line
        if found is not None:
            return found
        raise ValueError(f"this looks like JSON and is none: {error}") from None


class _NoError(ValueError):
    """JSON that holds no error."""


def _in_data(data: Any, depth: int) -> object:
    if not isinstance(data, Mapping):
        raise _NoError("this JSON is not an error: it is not an object")
    if data.get("status") == "ok":
        raise _NoError("this response is not an error: its status is ok")
    if "status" in data or "code" in data or isinstance(data.get("error"), Mapping):
        return data  # an error body, a response, or a frame of iii's wire protocol
    for name in _TEXTS:
        value = data.get(name)
        if isinstance(value, str) and value and depth < _DEPTH:
            found = _in_lines(plain(value), depth + 1)
            if found is not None:
                return found
    code = data.get("iii_code")  # a field of this library's own records
    if isinstance(code, str) and code:
        return _of_code(code, data.get("iii_category"))
    raise _NoError("this JSON is not an error: it has neither code, nor error, nor status")


def _in_lines(text: str, depth: int = 0) -> object | None:
    """The last known error of a text; where there is none, the last that looks like one."""
    noted: tuple[int, object] | None = None
    fallback: object | None = None
    lines = text.splitlines()[-_LINES:]
    for number in range(len(lines) - 1, -1, -1):
        if noted is not None and noted[0] - number > _LONGEST_ERROR:
            return noted[1]
        if noted is None and (note := _NOTE.search(lines[number])) is not None:
            noted = number, _of_code(note[1], note[2])  # the exception above it says more
            continue
        for found, known in _in_line(lines[number], _rest(lines, number + 1), depth):
            if known:
                return found
            fallback = fallback or found
    return noted[1] if noted is not None else fallback


def _rest(lines: list[str], start: int) -> str:
    """What an exception says in lines of its own, below the one that names it."""
    rest = []
    for line in lines[start : start + _LONGEST_ERROR]:
        if not line.strip() or line.startswith("iii-resilience: ") or _CLASS.match(line):
            break
        rest.append(line)
    return "\n".join(rest)


def _in_line(line: str, rest: str, depth: int) -> Iterator[tuple[object, bool]]:
    """What a line names, and whether it is known; ``rest`` is what stands below it."""
    if (own := _RECORD.search(line)) is not None:
        yield _of_code(own[1], own[2]), True
    for head in _HEAD.finditer(line):
        found = _printed(head[1], line[head.end() :], "" if head.start() else rest)
        if found is not None:
            yield found
    brace = line.find("{")
    if brace >= 0 and depth < _DEPTH and '"' in line:
        with suppress(ValueError, RecursionError):
            yield _in_data(json.loads(line[brace:]), depth + 1), True
    bare = line.strip()
    if find(bare) is not None:
        yield bare, True
    elif _CLASS.match(bare) and (failure := from_name(bare)) is not None:
        yield failure, True  # an exception without words


def _printed(name: str, message: str, rest: str) -> tuple[object, bool] | None:
    """``name: message``, where the name is a code or a class."""
    whole = f"{message}\n{rest}".rstrip()
    if len(name) <= LONGEST_CODE and find(name) is not None:
        return {"code": name, "message": whole}, True
    if _CLASS.match(name) is None:
        return None
    inner = _HEAD.match(message)
    if inner is not None and (name.startswith("iii.") or find(inner[1]) is not None):
        # The SDK prints "class: code: message", whatever the code.
        return {"code": inner[1], "message": whole[inner.end() :]}, True
    if (failure := from_name(name, message)) is not None:
        return failure, True
    return (name.rpartition(".")[2], False) if _LOOKS_RAISED.search(name) else None


def _of_code(code: str, category: object) -> object:
    """What a code of this library's own records says; of a class of the user's, the record."""
    says = _CATEGORIES.get(str(category))
    if code.startswith("HTTP "):
        return from_name("httpx.HTTPStatusError", f"{code[5:]} ")
    if (failure := from_name(code)) is not None:
        return failure
    if find(code) is not None or says is None or "." not in code:
        return code
    return Failure(
        code,
        says,
        Execution.MAYBE_EXECUTED,
        remedy="look at the exception: its record says the category, and no table knows its class",
        system="local",
        origin=LIBRARY,
    )

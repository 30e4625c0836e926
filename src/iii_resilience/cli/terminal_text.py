"""Text from outside, made fit for a terminal.

Knows nothing of what is printed.
"""

from __future__ import annotations

import re

# ECMA-48: CSI, OSC and other strings with their ends, then any other escape of two characters.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*[0-~]?"
)
# Control characters but line feed and tab; and what reorders or hides the text around it.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)


# A password that is written as it is may hold "@" or "/"; digits before a slash are a port.
_USER = re.compile(r"(?<=://)(?:[^\s/:]*:(?!\d+/)\S*|[^\s/]*)@")
_BEFORE_HOST = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE | re.DOTALL)
_SECRET = re.compile(
    r"([?&](?:token|access_token|pass|secret|api_key|apikey|key|auth|authorization)="
    r"|\b(?:password|passwd)=)"  # of a query, or of a DSN
    r"[^&\s#'\"]*",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """A text whose URLs show neither user and password, nor tokens in their queries.

    Args:
        text: A URL, or a message that may hold some.
    """
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


def address(text: str) -> str:
    """An address that was typed, without user, password and tokens, however wrongly it is written.

    Args:
        text: A URL alone; its scheme may be missing, its password may hold "@", "/" or spaces.
    """
    if ":" in text.rpartition("@")[0]:
        text = _BEFORE_HOST.sub(r"\1***@", text)
    return without_credentials(text)


def plain(text: str) -> str:
    """A text without escape sequences and control characters; lines and tabs stay.

    Args:
        text: A text from outside: a code, a message, an id.
    """
    return _CONTROLS.sub("", _SEQUENCES.sub("", text.replace("\r\n", "\n")))

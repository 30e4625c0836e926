"""Policies in iii's configuration worker, where operators change them for all processes.

The engine does not guarantee delivery of configuration events, and a schema does not survive an
engine restart (docs/engine-notes.md, 11). So an event, a new connection and the slow poll all do
the same: read again, and register the schema if it is missing.

Knows nothing of what policies mean: `config.load` reads them, `config.watch` follows them. Programs
with policies in files never import it.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from iii_resilience.config.book import PolicyBook
from iii_resilience.config.default_book import ENVIRONMENT
from iii_resilience.config.files.dump import as_data
from iii_resilience.config.files.file_source import Contents, Files, One, from_environment
from iii_resilience.config.files.schema import schema
from iii_resilience.config.policy_set import PolicySet
from iii_resilience.config.watch import SourceCheck, Watch
from iii_resilience.core.classify import classify
from iii_resilience.core.effects import drive
from iii_resilience.core.errors import ConfigError, ConnectionLostError, NotConnectedError
from iii_resilience.core.observers import logger
from iii_resilience.sdk.client_adapter import SdkClient
from iii_resilience.sdk.connection import Connection, connection_of

_ID = re.compile(r"[a-z0-9_-]{1,64}")
_CONNECTS_WITHIN = 5.0  # seconds; as long as a call waits by default
_ANSWERS_WITHIN = 5.0  # seconds; an answer takes milliseconds, and the next look comes anyway


def policies_from_engine(
    worker: SdkClient,
    entry: str = "iii-resilience",
    *,
    files: One | Iterable[One] | None = None,
    every: float = 60.0,
) -> PolicyBook:
    """Policies from an entry of iii's configuration worker; they follow its changes.

    An entry that does not exist is made from the files, with the JSON Schema of policy files, so
    that the engine itself refuses what is malformed. From then on the entry counts, and the files
    stand in only where the engine cannot be queried: it has no configuration worker, or forbids it,
    or does not answer. That is one warning, and the query is repeated.

    The book follows its entry until the worker is shut down or the book is gone. What does not
    validate is one error record, and the policies before it stay in force.

    Args:
        worker: What ``iii.register_worker()`` or `resilient` returned.
        entry: Id of the entry: lower-case letters, digits, ``_`` and ``-``.
        files: The files, as for `load_policies`; None for those in ``III_RESILIENCE_POLICIES``, or
            the built-in default.
        every: Seconds between two looks at the entry when no event comes.

    Returns:
        The book, for ``resilient(worker, policies=...)`` or `use_policies`.

    Raises:
        ConfigError: The files do not validate.
        RuntimeError: It was called on the SDK's own thread, where it would wait for itself.
        TypeError: The worker is not a client of the SDK.
        ValueError: The id is empty, or a time is not a positive number.
    """
    if not _ID.fullmatch(entry):
        raise ValueError(
            f"an entry's id has 1 to 64 lower-case letters, digits, _ and -, got {entry!r}"
        )
    # The connection is that of the user's wrapped client: its shutdown ends this source too.
    connection = connection_of(worker)
    if connection.client.on_loop_thread:
        raise RuntimeError(
            "policies_from_engine() was called on the SDK's own thread, where it would wait for "
            "itself. Call it before the handlers run, or with asyncio.to_thread()"
        )
    source = _EngineEntry(connection, entry, _files(files))
    book = PolicyBook.of(source.first(), source)
    book.register()
    follow = _Follow(source, SourceCheck(book, source, every))
    watch = Watch(follow, every, "iii-resilience-engine-policies")
    connection.on_change(watch.look_now)
    _subscribe(connection, entry, watch)
    return book


def _files(files: One | Iterable[One] | None) -> Files:
    if files is None:
        files = from_environment(os.environ.get(ENVIRONMENT, "")) or "builtin:default"
    return Files.of(files)


class _EngineEntry:
    """The entry, as a source of policies (a `reload.Source`)."""

    def __init__(self, connection: Connection, entry: str, files: Files) -> None:
        self._connection = connection
        self._entry = entry
        self._files = files
        self._last: Contents | None = None
        self._registered = False
        self._warned = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"configuration {self._entry}"

    @property
    def ended(self) -> bool:
        """Whether the client was shut down: nothing will ever be answered."""
        return self._connection.closed or not self._connection.loop.is_running()

    def first(self) -> PolicySet:
        """What to begin with: what the entry says, or the files where that is of no use."""
        contents = self.read()
        try:
            return contents.policy_set()
        except ConfigError:
            if self._last is None:
                raise  # they are the files
            # The first looks find the same, and report it.
            return self._files.read().policy_set()

    def read(self) -> Contents:
        """What the entry holds now; if it cannot be read, what it held last, or the files."""
        try:
            try:
                self._last = self._ask()
            except ConnectionLostError:  # waits for the next one; after a shutdown there is none
                self._last = self._ask()
            self._warned = False
        except Exception as error:
            self._cannot_be_asked(error)
        return self._last if self._last is not None else self._files.read()

    def _ask(self) -> Contents:
        self._connection.check_usable()
        if not drive(self._connection.wait_connected(_CONNECTS_WITHIN)):
            raise NotConnectedError("there is no connection to the engine")
        try:
            value = self._call("get")["value"]
        except Exception as error:
            if classify(error).code != "NOT_FOUND":
                raise
            self._register(initial_value=as_data(self._files.read().policy_set()))
            value = self._call("get")["value"]
        if not self._registered or not self._has_schema():
            self._register()
        return Contents(
            ((self.name, value if isinstance(value, Mapping) else {}),),
            json.dumps(value, sort_keys=True).encode(),
        )

    def _has_schema(self) -> bool:
        try:
            return self._call("schema").get("schema") is not None
        except Exception as error:
            if classify(error).code == "SCHEMA_UNAVAILABLE":
                return False
            raise

    def _register(self, **more: Any) -> None:
        self._call(
            "register",
            name="iii-resilience policies",
            description="How calls through the engine are retried, as in a policy file",
            schema=schema(),
            **more,
        )
        self._registered = True

    def _call(self, what: str, **payload: Any) -> Any:
        function_id = f"configuration::{what}"
        request = {
            "function_id": function_id,
            "payload": {"id": self._entry, **payload},
            "timeout_ms": int(_ANSWERS_WITHIN * 1000),
        }
        if (namespace := self._connection.client.namespace_of(function_id)) is not None:
            request["namespace"] = namespace
        # Straight to the SDK: the next poll is the retry, and it must not count as a user's call.
        return self._connection.in_flight.send(request, seconds=_ANSWERS_WITHIN)

    def _cannot_be_asked(self, error: Exception) -> None:
        code = classify(error).code
        if self._warned or self.ended or code == "SHUTDOWN":
            return
        self._warned = True
        so = "the policies read last stay in force"
        if self._last is None:
            so = f"the policies of {self._files.name} are in force"
        logger.warning(
            "%s cannot be read from the engine (%s): %s",
            self.name,
            code,
            so,
            extra={"code": code},
        )


class _Follow:
    """Looks at the entry until its client ends."""

    def __init__(self, source: _EngineEntry, look: SourceCheck) -> None:
        self._source = source
        self._look = look

    def __call__(self) -> float | None:
        return None if self._source.ended else self._look()


def _subscribe(connection: Connection, entry: str, watch: Watch) -> None:
    """Look at once when the entry has changed; without triggers (SDK 0.26) the poll is enough."""
    function_id = f"iii-resilience::policies-changed::{uuid.uuid4().hex}"

    def changed(_: Any) -> None:
        watch.look_now()

    try:
        connection.client.register_function(function_id, changed)
        # Without the SDK's warning: the way that 0.25 names instead leads to what its worker
        # publishes, and the configuration worker publishes nothing.
        connection.client.register_trigger(
            {
                "type": "configuration",
                "function_id": function_id,
                "config": {"configuration_id": entry},
            },
        )
    except Exception as error:
        code = classify(error).code
        logger.info("no events of %s (%s): it is only looked at from time to time", entry, code)
    watch.look_now()  # what changed before the engine knew of the trigger

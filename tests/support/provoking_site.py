"""Servers that answer badly, and whatever else provokes the exceptions of libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from support.flaky_http import FlakyServer, closed_port, flaky_server, full_port, secure_server


@attrs.frozen
class Site:
    """What the calls go to.

    Attributes:
        server: An HTTP server that answers as a call wants it.
        secure: The URL of another one, whose certificate nothing trusts.
        full: A port that takes no connection any more.
        folder: A folder of the test's own.
    """

    server: FlakyServer
    secure: str
    full: int
    folder: Path

    def says(self, *instructions: Any) -> str:
        """A URL that is answered so."""
        return self.server.says(f"/{len(self.server.script)}", *instructions)

    @property
    def closed(self) -> str:
        """A URL where nothing listens."""
        return f"http://127.0.0.1:{closed_port()}/"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with flaky_server() as server, secure_server(folder) as secure, full_port() as full:
        yield Site(server, secure, full, folder)

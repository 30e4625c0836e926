"""The real engine and its queue worker as processes that a test starts and kills.

`III_ENGINE` and `III_QUEUE_WORKER` name the programs. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time
from pathlib import Path

from support.ports import reserved_port

_CONFIG = """\
workers:
  - name: iii-worker-manager
    config: {{host: 127.0.0.1, port: {port}}}
  - name: configuration
    config:
      adapter: {{name: fs, config: {{directory: {folder}/config}}}}
      ttl_seconds: 0
  - name: iii-telemetry
    config: {{enabled: false}}
  - name: iii-observability
    config:
      enabled: false
      exporter: memory
      metrics_enabled: false
      logs_enabled: false
      trace_storage: {{enabled: false}}
"""
_GUARDED = """\
  - name: iii-worker-manager
    config:
      host: 127.0.0.1
      port: {port}
      rbac: {{auth_function_id: "{function_id}"}}
"""
_QUIET = {"OTEL_ENABLED": "false", "III_TELEMETRY_ENABLED": "false", "RUST_LOG": "warn"}


class RealEngine:
    """An engine on a port of its own, and a queue worker beside it.

    Args:
        folder: Where both keep what survives a restart.
        guarded_by: The auth function of a second listener, or None for no such listener.
    """

    def __init__(self, folder: Path, guarded_by: str | None = None) -> None:
        self._folder = folder
        self.port = reserved_port()
        self._guarded_port = reserved_port()
        self._guarded_by = guarded_by
        self._config = folder / "config.yaml"
        self._queue_folder = folder / "queue-worker"
        self._queue_folder.mkdir()
        self._engine: subprocess.Popen[bytes] | None = None
        self._queue: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def guarded_url(self) -> str:
        """The listener with the auth function."""
        return f"ws://127.0.0.1:{self._guarded_port}"

    @property
    def pid(self) -> int:
        assert self._engine is not None
        return self._engine.pid

    def start(self) -> None:
        # The engine writes its own form of it: each start begins with ours.
        config = _CONFIG.format(port=self.port, folder=self._folder)
        if self._guarded_by is not None:
            config += _GUARDED.format(port=self._guarded_port, function_id=self._guarded_by)
        self._config.write_text(config, "utf-8")
        command = shlex.split(os.environ["III_ENGINE"])
        self._engine = self._run(
            [*command, "--no-update-check", "--config", str(self._config)], self._folder
        )
        until = time.monotonic() + 60
        for port in (self.port, *([] if self._guarded_by is None else [self._guarded_port])):
            while not _listens(port):
                assert self._engine.poll() is None, "the engine ended at once"
                assert time.monotonic() < until, "the engine does not listen"
                time.sleep(0.05)

    def start_queue_worker(self) -> None:
        command = shlex.split(os.environ["III_QUEUE_WORKER"])
        self._queue = self._run(command, self._queue_folder)

    def kill(self) -> None:
        """The engine alone, at once; the queue worker finds it again."""
        process, self._engine = self._engine, None
        if process is not None:
            process.kill()
            process.wait()

    def kill_queue_worker(self) -> None:
        """The queue worker alone, at once."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.kill()
            queue.wait()

    def end(self) -> None:
        self.kill_queue_worker()
        self.kill()

    def _run(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **_QUIET, "III_URL": self.url, "HOME": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

"""`LoopbackEngine`: an engine on 127.0.0.1 for unmodified iii-sdk workers and callers.

It has the thread, the ports, and the methods for tests. It answers as engine 0.23 does
(docs/engine-notes.md). Knows nothing of how the engine decides.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs

from iii_resilience.core.validators import Number, Text
from iii_resilience.testing.faults import SECONDS, AnswerError, AnswerResult, Fault
from iii_resilience.testing.loopback import wire
from iii_resilience.testing.loopback.conditions import Conditions
from iii_resilience.testing.loopback.loop_thread import LoopThread
from iii_resilience.testing.loopback.queries import Queries
from iii_resilience.testing.loopback.rbac import Rbac

if TYPE_CHECKING:
    from iii_resilience.testing.loopback.listener import Listener
    from iii_resilience.testing.loopback.queue_worker import QueueWorker

_NO_EXTRA = "the loopback engine needs {}: pip install 'iii-resilience[testing]'"


class LoopbackEngine(Queries):
    """An engine for tests; use it in a ``with`` statement, or call `start` and `stop`.

    It listens on 127.0.0.1 only, runs on a daemon thread of its own, and keeps its port over
    restarts. Every method may be called from any thread but its own.

    Args:
        port: The port, or 0 for a free one.
        queue_worker: Whether it brings the queue worker that `Enqueue` needs. Without it
            `Enqueue` fails until a worker registers ``engine::queue::enqueue``, as it does on an
            engine where no queue worker is installed.
        rbac: The rules of a second listener (`rbac_url`), or None for no such listener.
        keep: How many frames, and how many calls, are remembered.

    Raises:
        ImportError: The ``testing`` extra is not installed.
        TypeError: `rbac` is not an `Rbac`.
        ValueError: A port outside 0 ... 65535, or a `keep` below 1.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        queue_worker: bool = True,
        rbac: Rbac | None = None,
        keep: int = 10_000,
    ) -> None:
        Number(least=0, most=65535, integer=True).require("port", port)
        Number(least=1, integer=True).require("keep", keep)
        if rbac is not None and not isinstance(rbac, Rbac):
            raise TypeError(f"rbac is Rbac(...) or None, not {type(rbac).__name__}")
        for name in ("websockets", "jsonschema"):
            if importlib.util.find_spec(name) is None:
                raise ImportError(_NO_EXTRA.format(name))
        from iii_resilience.testing.loopback.configuration import Configuration  # noqa: PLC0415
        from iii_resilience.testing.loopback.cron import Cron  # noqa: PLC0415
        from iii_resilience.testing.loopback.engine_core import Engine  # noqa: PLC0415
        from iii_resilience.testing.loopback.http_routes import HttpRoutes  # noqa: PLC0415
        from iii_resilience.testing.loopback.http_server import HttpServer  # noqa: PLC0415
        from iii_resilience.testing.loopback.listener import Listener, Port  # noqa: PLC0415
        from iii_resilience.testing.loopback.queue_worker import QueueWorker  # noqa: PLC0415
        from iii_resilience.testing.loopback.state import StateFunctions  # noqa: PLC0415
        from iii_resilience.testing.loopback.triggers import TriggerTypeRow  # noqa: PLC0415

        thread = LoopThread("iii-loopback-engine")
        watchers = Conditions(thread)
        inside = _Inside(thread)
        engine = Engine(inside, rbac or Rbac(), keep, self._changed, watchers.look)
        self._port = Port(port)
        self._rbac_port = None if rbac is None else Port(0)
        self._configuration = Configuration(engine.calls, engine.triggers)
        queues: QueueWorker | None = None
        if queue_worker:
            queues = QueueWorker(engine, inside, self._configuration, watchers.look)
        super().__init__(thread, watchers, engine, queues)
        builtins = {**self._configuration.builtins(), **StateFunctions().builtins()}
        for function_id, builtin in builtins.items():
            engine.add_builtin(function_id, builtin)
        routes = HttpRoutes(engine.calls)
        self._http_port = Port(0)
        engine.triggers.provide(TriggerTypeRow("http", "HTTP API trigger", "iii-http"), routes)
        engine.triggers.provide(
            TriggerTypeRow("cron", "Cron-based scheduled triggers", "iii-cron"),
            Cron(engine.calls, inside.later),
        )
        self._sockets: Listener = Listener(
            engine,
            thread,
            self._port,
            self._rbac_port,
            self._went_down,
            self._came_up,
            (HttpServer(routes.answer), self._http_port),
        )
        inside.sockets = self._sockets

    # Start and stop.

    def start(self) -> Self:
        """Starts the engine; returns when it listens.

        Raises:
            RuntimeError: It runs already.
            OSError: The port is taken.
        """
        if self._thread.running:
            raise RuntimeError("the engine runs already")
        self._thread.start()
        try:
            self._port.reserve()
            self._http_port.reserve()
            if self._rbac_port is not None:
                self._rbac_port.reserve()
            self._thread.run(self._sockets.listen())
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stops the engine and gives its port back; does nothing where it does not run.

        Raises:
            RuntimeError: An unhandled error on the engine's thread; it is the cause.
        """
        if self._thread.running:
            self._thread.call(self._sockets.stop_listening)
            self._thread.stop()
        self._port.release()
        self._http_port.release()
        if self._rbac_port is not None:
            self._rbac_port.release()
        errors = self._thread.errors()
        if errors:
            raise RuntimeError("the loopback engine failed, see the cause") from errors[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except RuntimeError:
            # The test's own failure is the one to show; the engine's has been logged.
            if error is None:
                raise

    def restart(self, down_for: float = 0.0) -> None:
        """Ends every connection, and listens on the same port again after `down_for` seconds.

        Calls in flight are never answered, as when an engine is killed. Values of configuration
        entries, state and the queue worker's messages survive.
        """
        SECONDS.require("down_for", down_for)
        self.stop_listening()
        time.sleep(down_for)
        self.listen()

    def restart_queue_worker(self, down_for: float = 0.0) -> None:
        """Ends the queue worker, and starts it again after `down_for` seconds.

        Nothing of it is lost. What is in flight is delivered again, beside the handlers that
        still run. Without it `Enqueue` fails.

        Raises:
            RuntimeError: The engine has no queue worker.
        """
        SECONDS.require("down_for", down_for)
        queues = self._queues()
        self._thread.call(queues.kill)
        time.sleep(down_for)
        self._thread.call(queues.connect)

    def stop_listening(self) -> None:
        """The first half of `restart`: the engine is gone."""
        self._thread.call(self._sockets.stop_listening)

    def listen(self) -> None:
        """The second half of `restart`: the engine is there again."""
        self._thread.run(self._sockets.listen())

    # Where it is.

    @property
    def port(self) -> int:
        """The port; 0 until the engine was started, if a free one was requested."""
        return self._port.number

    @property
    def url(self) -> str:
        """What to give to ``register_worker``."""
        return f"ws://127.0.0.1:{self._port.number}"

    @property
    def http_url(self) -> str:
        """Where the routes of `http` triggers are answered: ``http://127.0.0.1:PORT``.

        The port is a free one; 0 until the engine was started.
        """
        return f"http://127.0.0.1:{self._http_port.number}"

    @property
    def rbac_url(self) -> str:
        """The second listener, where `rbac` holds.

        Raises:
            RuntimeError: There is none.
        """
        if self._rbac_port is None:
            raise RuntimeError("there is no second listener: pass LoopbackEngine(rbac=Rbac(...))")
        return f"ws://127.0.0.1:{self._rbac_port.number}"

    # What goes wrong.

    def disconnect(self, worker_name: str | None = None, code: int | None = None) -> None:
        """Ends the connection of one worker, or all connections.

        Args:
            worker_name: The worker whose connection is closed; None is all of them.
            code: None resets the TCP connection; a number sends a close frame with this code.

        Raises:
            ValueError: No worker of this name is connected, or a code outside 1000 ... 4999.
        """
        if code is not None:
            Number(least=1000, most=4999, integer=True).require("code", code)
        self._known(worker_name)
        self._thread.call(lambda: self._sockets.disconnect(worker_name, code))

    def stall(self, worker_name: str | None = None) -> None:
        """Takes bytes in and answers nothing, for one worker or for all, until `resume`.

        Raises:
            ValueError: No worker of this name is connected.
        """
        self._known(worker_name)
        self._thread.call(lambda: self._sockets.stall(worker_name))

    def resume(self) -> None:
        """Ends every `stall`; what has piled up is handled now."""
        self._thread.call(self._sockets.resume)

    def forbid(self, pattern: str) -> None:
        """Answers FORBIDDEN to every call of matching functions, whether they exist or not.

        Holds on the first listener. `Void` calls are refused silently.

        Args:
            pattern: A function id, with ``*`` for any characters: ``admin::*``.
        """
        Text("a function id, with * for any characters").require("pattern", pattern)
        self._thread.call(lambda: self._engine.reception.forbidden.append(pattern))

    def inject(
        self,
        function_id: str,
        fault: Fault,
        call: int = 1,
        times: int | None = 1,
        *,
        deliveries: bool = False,
    ) -> None:
        """Plans a fault.

        Args:
            function_id: The function whose calls are affected; also one of the engine's own.
            fault: What goes wrong.
            call: The first affected call, counted from now; 1 is the next.
            times: How many calls in a row are affected; None is all, until `clear_faults`.
            deliveries: Whether deliveries of the built-in queue worker count as calls and are
                affected too.

        Raises:
            TypeError: The fault is none, or a result that JSON cannot carry.
            ValueError: A `call` or `times` below 1, or an answer the engine could not send.
        """
        if isinstance(fault, (AnswerError, AnswerResult)):
            # What cannot be sent is better refused here than found on the engine's thread.
            wire.encode(attrs.asdict(fault, recurse=False)).encode()
        self._thread.call(
            lambda: self._engine.faults.add(function_id, fault, call, times, deliveries=deliveries)
        )

    def clear_faults(self, function_id: str | None = None) -> None:
        """Forgets what `inject` planned, for one function or for all."""
        self._thread.call(lambda: self._engine.faults.clear(function_id))

    def _changed(self) -> None:
        if self._queue_worker is not None:
            self._queue_worker.registrations_changed()
        self._watchers.look()

    def _went_down(self) -> None:
        if self._queue_worker is not None:
            self._queue_worker.disconnect()
        self._engine.clear()
        self._configuration.restarted()

    def _came_up(self) -> None:
        if self._queue_worker is not None:
            self._queue_worker.connect()

    def _known(self, worker_name: str | None) -> None:
        if worker_name is not None and worker_name not in self.workers():
            raise ValueError(f"no worker named {worker_name!r} is connected: {self.workers()}")


class _Inside:
    """What the engine needs of the thread it runs on."""

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self.sockets: Listener | None = None

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._thread.later(seconds, action)

    def restart(self, down_for: float) -> None:
        if self.sockets is not None:
            self.sockets.restart(down_for)

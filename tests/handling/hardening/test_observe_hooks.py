"""Hooks that learn of a function's observers: they cannot end their worker.

No engine with observers is at hand: the frames are given to the SDK as such an engine sends them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.real_sdk import needs
from support.waiting import until

from iii_resilience import classify, resilient
from iii_resilience.handling import PayloadError
from iii_resilience.sdk.observer_log import ObserverLog
from iii_resilience.testing import LoopbackEngine

pytestmark = needs((0, 25), "observe")

Hook = Callable[[Any], Any]


class Scene:
    """A worker with a function that is observed."""

    def __init__(self, engine: LoopbackEngine, client: Any) -> None:
        self.engine = engine
        self.client = client
        self.worker = resilient(client)

    def register(self, observe: Any) -> None:
        self.worker.register_function("t::f", lambda data: "answer", observe=observe)
        self.engine.wait_registered("t::f")

    def receive(self, **frame: Any) -> None:
        receiving = self.client._handle_message(json.dumps(frame))
        asyncio.run_coroutine_threadsafe(receiving, self.client._loop).result(10)

    def add(self, observer_id: str = "o1") -> None:
        self.receive(
            type="functionregistered",
            id="t::f",
            namespace="default",
            revision=1,
            local_dispatch=False,
            observers=[
                {
                    "id": observer_id,
                    "args": {},
                    "filters": {},
                    "target": "t::g",
                    "capture": ["input"],
                    "on": "success",
                }
            ],
        )

    def remove(self, observer_id: str = "o1") -> None:
        self.receive(
            type="observerremoved",
            function_id="t::f",
            namespace="default",
            revision=2,
            id=observer_id,
        )

    def sent(self) -> Any:
        """What the engine was sent of the option."""
        frames = [f.message for f in self.engine.frames if f.message["type"] == "registerfunction"]
        (frame,) = [frame for frame in frames if frame["id"] == "t::f"]
        return frame["observe"]

    def ack(self) -> Any:
        """What the engine was answered, or None yet."""
        found = [f.message for f in self.engine.frames if f.message["type"] == "observerack"]
        return found[-1] if found else None

    def answers(self) -> bool:
        return bool(self.client._loop.is_running())


@pytest.fixture
def scene(engine: LoopbackEngine, connect: Callable[..., Any]) -> Iterator[Scene]:
    log = logging.getLogger("iii.iii")
    before = log.level
    log.setLevel(logging.ERROR)  # this engine has no observers
    yield Scene(engine, connect("owner"))
    log.setLevel(before)


def raising(error: BaseException, *, on_loop: bool) -> Hook:
    async def hook_on_loop(observer: Any) -> None:
        raise error

    def hook_on_thread(observer: Any) -> None:
        raise error

    return hook_on_loop if on_loop else hook_on_thread


@pytest.mark.parametrize("on_loop", [True, False])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(3), "HANDLER_EXITED"),
        (KeyboardInterrupt(), "HANDLER_EXITED"),
        (asyncio.CancelledError(), "HANDLER_CANCELLED"),
        (PayloadError("no such day", code="BAD_DAY"), "BAD_DAY"),
    ],
)
def test_whatever_it_raises_rejects_its_observer(
    scene: Scene, caplog: pytest.LogCaptureFixture, error: BaseException, code: str, on_loop: bool
) -> None:
    from iii import ObserveHooks

    scene.register(ObserveHooks(on_observer_added=raising(error, on_loop=on_loop)))
    scene.add()
    until(scene.ack)
    assert scene.answers()
    body = scene.ack()["error"]
    assert body["code"] == "OBSERVE_REJECTED"
    failure = classify(body)
    assert failure.inner is not None
    assert failure.inner.code == code
    assert failure.category is failure.inner.category
    (record,) = [r for r in caplog.records if "the hook on_observer_added failed" in r.getMessage()]
    assert record.name == "iii_resilience"
    assert "no such day" not in record.getMessage()


def test_exit_in_awaitable_of_plain_hook_is_caught(scene: Scene) -> None:
    async def rest() -> None:
        raise SystemExit(3)

    scene.register({"on_observer_added": lambda observer: rest()})
    scene.add()
    until(scene.ack)
    assert scene.answers()
    assert "HANDLER_EXITED" in scene.ack()["error"]["message"]


def test_rejection_travels_with_its_own_code(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    from iii import ObserveHooks, ObserveRejection

    error = ObserveRejection("HTTP_ROUTE_CONFLICT", "/f is taken")
    scene.register(ObserveHooks(on_observer_added=raising(error, on_loop=True)))
    scene.add()
    until(scene.ack)
    assert scene.ack()["error"] == {"code": "HTTP_ROUTE_CONFLICT", "message": "/f is taken"}
    assert [r for r in caplog.records if "the hook" in r.getMessage()] == []


def test_exit_in_removal_leaves_worker_alive(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    from iii import ObserveHooks

    removed = raising(SystemExit(3), on_loop=True)
    scene.register(ObserveHooks(delivery="owner", on_observer_removed=removed))
    assert scene.sent() == {"delivery": "owner"}
    scene.add()
    until(scene.ack)
    scene.remove()
    until(lambda: any("on_observer_removed failed" in r.getMessage() for r in caplog.records))
    assert scene.answers()


def test_hooks_of_subclass_keep_their_state(scene: Scene) -> None:
    from iii import ObserveHooks

    class Schedule(ObserveHooks):  # type: ignore[misc]  # untyped before 0.25
        delivery = "owner"

        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()
            self.ids: list[str] = []

        # As the SDK documents it; to a type checker it is a variable.
        async def on_observer_added(  # pyright: ignore[reportIncompatibleVariableOverride]
            self, observer: Any
        ) -> None:
            with self.lock:
                self.ids.append(observer.id)

        def on_observer_removed(  # pyright: ignore[reportIncompatibleVariableOverride]
            self, observer: Any
        ) -> None:
            self.ids.remove(observer.id)

    schedule = Schedule()
    scene.register(schedule)
    scene.add()
    until(lambda: schedule.ids == ["o1"])
    until(lambda: scene.ack() is not None and "error" not in scene.ack())
    scene.remove()
    until(lambda: schedule.ids == [])
    assert scene.sent() == {"delivery": "owner"}


def test_option_without_hooks_passes_through(scene: Scene) -> None:
    from iii import ObserveHooks

    scene.register(ObserveHooks(allow=False))
    scene.worker.register_function("t::g", lambda data: data, observe=None)
    scene.engine.wait_registered("t::g")


class TestLog:
    """What is said of observers that do nothing."""

    def rejected(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [r.getMessage() for r in caplog.records if "the observer" in r.getMessage()]

    def test_engine_without_observers_is_logged_once(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        handles = [scene.worker.observe({"function_id": "t::f"}, "t::g") for _ in range(3)]
        until(lambda: [handle.state for handle in handles] == ["error"] * 3)
        until(lambda: self.rejected(caplog))
        scene.engine.restart(down_for=0.1)
        until(lambda: scene.client.get_connection_state() == "connected")
        (text,) = self.rejected(caplog)
        assert "UNSUPPORTED (permanent); upgrade the engine" in text

    @pytest.mark.parametrize(
        ("code", "category"),
        [
            ("NOT_OBSERVABLE", "permanent"),
            ("INVALID_FILTER_PATH", "payload"),
            ("HTTP_ROUTE_CONFLICT", "permanent"),
            ("INVALID_CRON_EXPRESSION", "payload"),
        ],
    )
    def test_rejected_observer_is_classified(
        self, scene: Scene, caplog: pytest.LogCaptureFixture, code: str, category: str
    ) -> None:
        until(lambda: scene.client._registered_on_connection)
        scene.client._engine_features = frozenset({"observe.v1"})
        handle = scene.worker.observe({"function_id": "t::f"}, "t::g", {"id": "o1"})
        for _ in range(2):
            scene.receive(
                type="observeresult",
                id="o1",
                state="error",
                error={"code": code, "message": "secret words"},
            )
        with pytest.raises(Exception, match=code) as caught:
            handle.ready(5)
        failure = classify(caught.value)
        assert (failure.category, failure.execution) == (category, "not_executed")
        until(lambda: self.rejected(caplog))
        (text,) = self.rejected(caplog)
        assert f"o1 is rejected: {code} ({category})" in text
        assert "secret" not in text

    def test_state_that_is_seen_twice_is_logged_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """By its listener, and right after the call."""

        class Handle:
            id = "o1"
            state = "error"
            reason = {"code": "INVALID_ARGS", "message": "no"}  # noqa: RUF012

            def on_state_change(self, listener: Callable[[str, Any], None]) -> None:
                listener(self.state, self.reason)

        ObserverLog().reported(Handle)()
        assert len(self.rejected(caplog)) == 1

    def test_observer_is_what_sdk_returned(self, scene: Scene) -> None:
        from iii import ObserverHandle

        handle = scene.worker.observe({"function_id": "t::f"}, "t::g", {"id": "o1"})
        assert isinstance(handle, ObserverHandle)
        assert handle.id == "o1"
        with pytest.raises(ValueError, match="target is required"):
            scene.worker.observe({"function_id": "t::f"}, "")

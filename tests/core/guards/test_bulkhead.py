"""The bulkhead: its bound, its queue, and that no place is ever lost or taken twice."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import pickle
import random
import sys
import threading
import time
import tracemalloc
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iii_resilience.core.guards import bulkhead as module
from iii_resilience.core.guards.bulkhead import Bulkhead, Permit, Slots

LONG = 60.0
SOURCE = str(Path(module.__file__))


def entered(slots: Slots, timeout: float | None = None) -> Permit:
    permit = slots.acquire(timeout)
    assert permit is not None
    return permit


def soon(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.001)


@contextlib.contextmanager
def thread(work: Callable[[], object]) -> Iterator[None]:
    """Run something in a thread that is over when the block is."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    running = threading.Thread(target=run)
    running.start()
    yield
    running.join(60)
    assert not running.is_alive()
    assert not errors


# The bound.


def test_so_many_go_in_and_no_more() -> None:
    slots = Slots(3, 0, 0.0)
    permits = [entered(slots) for _ in range(3)]
    assert slots.acquire() is None
    slots.release(permits.pop())
    assert slots.acquire() is not None


async def test_so_many_coroutines_go_in_and_no_more() -> None:
    slots = Slots(3, 0, 0.0)
    permits = [await slots.acquire_async() for _ in range(3)]
    assert None not in permits
    assert await slots.acquire_async() is None
    assert slots.acquire() is None


def test_permit_given_back_twice_frees_one_place() -> None:
    slots = Slots(2, 0, 0.0)
    first, second = entered(slots), entered(slots)
    slots.release(first)
    slots.release(first)
    assert slots.inside == 1
    assert slots.acquire() is not None
    slots.release(second)


def test_with_no_time_left_free_place_is_still_taken() -> None:
    slots = Slots(1, 1, LONG)
    entered(slots, 0.0)
    kept = entered(slots, -1.0)
    assert slots.acquire(0.0) is None
    assert slots.acquire(-1.0) is None
    slots.release(kept)


async def test_without_time_left_coroutine_is_rejected_at_once() -> None:
    slots = Slots(1, 1, LONG)
    kept = entered(slots)
    with pytest.raises(StopIteration) as answer:
        slots.acquire_async(0.0).send(None)
    assert answer.value.value is None
    slots.release(kept)


def test_place_that_comes_free_as_one_lines_up_is_that_ones() -> None:
    slots, woken = Slots(1, 1, LONG), list[str]()
    first, second, third = (Permit(slots) for _ in range(3))
    assert slots._line_up(first, lambda: woken.append("first"))
    assert woken == ["first"]
    assert slots._line_up(second, lambda: woken.append("second"))
    assert not slots._line_up(third, lambda: woken.append("third"))
    slots.release(first)
    assert slots._was_let_in(second)
    assert woken == ["first", "second"]


def test_full_queue_rejects_at_once() -> None:
    slots = Slots(1, 1, LONG)
    kept = entered(slots)
    with thread(lambda: slots.release(entered(slots))):
        soon(lambda: slots.waiting == 1)
        started = time.monotonic()
        assert slots.acquire() is None
        assert time.monotonic() - started < LONG / 2
        slots.release(kept)
    assert (slots.inside, slots.waiting) == (0, 0)


@pytest.mark.parametrize(("wait", "timeout"), [(0.03, None), (0.03, LONG), (LONG, 0.03)])
def test_wait_is_bounded_by_the_gate_and_by_the_caller(wait: float, timeout: float | None) -> None:
    slots = Slots(1, 1, wait)
    kept = entered(slots)
    started = time.monotonic()
    assert slots.acquire(timeout) is None
    assert 0.029 <= time.monotonic() - started < LONG / 2
    assert (slots.inside, slots.waiting) == (1, 0)
    slots.release(kept)


@pytest.mark.parametrize(("wait", "left"), [(0.03, None), (0.03, LONG), (LONG, 0.03)])
async def test_wait_of_coroutine_is_bounded_too(wait: float, left: float | None) -> None:
    slots = Slots(1, 1, wait)
    kept = entered(slots)
    started = time.monotonic()
    assert await slots.acquire_async(left) is None
    assert 0.028 <= time.monotonic() - started < LONG / 2
    assert (slots.inside, slots.waiting) == (1, 0)
    slots.release(kept)


def test_wait_longer_than_any_lock_can_wait_is_no_error() -> None:
    slots = Bulkhead(1, queue=1, wait=1e9).slots_for()
    kept = entered(slots)
    with thread(lambda: slots.release(entered(slots))):
        soon(lambda: slots.waiting == 1)
        slots.release(kept)


# First come, first served.


def test_threads_and_coroutines_are_admitted_in_order() -> None:
    slots, served = Slots(1, 100, LONG), list[int]()
    kept = entered(slots)
    loops = [asyncio.new_event_loop() for _ in range(2)]

    def in_thread(number: int) -> None:
        permit = entered(slots)
        served.append(number)
        slots.release(permit)

    async def in_loop(number: int) -> None:
        permit = await slots.acquire_async()
        assert permit is not None
        served.append(number)
        slots.release(permit)

    with contextlib.ExitStack() as stack:
        for loop in loops:
            stack.enter_context(contextlib.closing(loop))
            stack.enter_context(thread(loop.run_forever))
        for number in range(30):
            if number % 3 == 2:
                stack.enter_context(thread(lambda number=number: in_thread(number)))  # type: ignore[misc]
            else:
                asyncio.run_coroutine_threadsafe(in_loop(number), loops[number % 3])
            soon(lambda number=number: slots.waiting == number + 1)  # type: ignore[misc]
        slots.release(kept)
        soon(lambda: len(served) == 30)
        for loop in loops:
            loop.call_soon_threadsafe(loop.stop)
        while any(loop.is_running() for loop in loops):
            time.sleep(0.001)
    assert served == list(range(30))
    assert (slots.inside, slots.waiting) == (0, 0)


async def test_newcomer_does_not_overtake_a_woken_waiter() -> None:
    slots = Slots(1, 5, LONG)
    kept = entered(slots)
    waits = asyncio.create_task(slots.acquire_async())
    await asyncio.sleep(0)
    slots.release(kept)
    assert slots.acquire(0.0) is None
    assert await waits is not None


# Cancellation.


async def test_coroutine_cancelled_while_it_waits_leaves_queue() -> None:
    slots = Slots(1, 5, LONG)
    kept = entered(slots)
    first, second = (asyncio.create_task(slots.acquire_async()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert slots.waiting == 1
    slots.release(kept)
    assert await second is not None
    assert (slots.inside, slots.waiting) == (1, 0)


@pytest.mark.parametrize("turns", range(4))
async def test_permit_of_cancelled_waiter_goes_to_next(
    turns: int,
) -> None:
    slots = Slots(1, 5, LONG)
    kept = entered(slots)
    first, second = (asyncio.create_task(slots.acquire_async()) for _ in range(2))
    await asyncio.sleep(0)
    slots.release(kept)
    for _ in range(turns):  # the loop is somewhere between being told and waking the task
        await asyncio.sleep(0)
    if first.cancel():
        await asyncio.wait([first])
        assert first.cancelled()
    else:
        permit = first.result()
        assert permit is not None
        slots.release(permit)
    assert await second is not None
    assert (slots.inside, slots.waiting) == (1, 0)


async def test_coroutine_cancelled_before_start_takes_nothing() -> None:
    slots = Slots(1, 5, LONG)
    task = asyncio.create_task(slots.acquire_async())
    task.cancel()
    await asyncio.wait([task])
    assert (slots.inside, slots.waiting) == (0, 0)


async def test_timeout_around_wait_loses_nothing() -> None:
    slots = Slots(1, 50, LONG)
    for _ in range(50):
        kept = entered(slots)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                asyncio.get_running_loop().call_later(0.001, slots.release, kept)
                permit = await slots.acquire_async()
                assert permit is not None
                slots.release(permit)
        slots.release(kept)
        assert (slots.inside, slots.waiting) == (0, 0)


async def test_let_in_at_moment_its_time_is_up_it_is_in() -> None:
    slots, complaints = Slots(1, 1, 0.01), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
    kept = entered(slots)
    task = asyncio.create_task(slots.acquire_async())
    await asyncio.sleep(0)
    time.sleep(0.02)  # noqa: ASYNC251 - the alarm is due before the loop comes round
    slots.release(kept)
    assert await task is not None
    assert slots.inside == 1
    await asyncio.sleep(0)
    assert not complaints  # of the alarm and the place, that came both


def test_coroutine_whose_loop_is_closed_is_passed_over() -> None:
    slots = Slots(1, 5, LONG)
    kept = entered(slots)
    loop = asyncio.new_event_loop()
    task = loop.create_task(slots.acquire_async())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with thread(lambda: slots.release(entered(slots))):
        soon(lambda: slots.waiting == 2)
        slots.release(kept)
    assert (slots.inside, slots.waiting) == (0, 0)
    thrown_away(task)


def test_discarded_coroutine_gives_its_place_back() -> None:
    slots = Slots(1, 5, LONG)
    kept = entered(slots)
    loop = asyncio.new_event_loop()
    task = loop.create_task(slots.acquire_async())
    loop.run_until_complete(asyncio.sleep(0))
    slots.release(kept)
    assert slots.inside == 1
    loop.close()
    thrown_away(task)
    del task
    gc.collect()
    assert (slots.inside, slots.waiting) == (0, 0)


def thrown_away(task: asyncio.Task[Any]) -> None:
    """End a task of a closed loop as the garbage collector does, without asyncio's complaint."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    assert isinstance(coroutine, types.CoroutineType)
    coroutine.close()


# Interrupts.


class Interrupter:
    """Raises KeyboardInterrupt before the nth instruction of the module's code."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, frame: types.FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != SOURCE or frame.f_code.co_name == "__del__":
            return None  # what is raised in a finalizer is dropped by Python itself
        if frame.f_back is not None and frame.f_back.f_code.co_name == "__del__":
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted_at(nth: int, work: Callable[[], object]) -> bool:
    """Whether the work was still going on at its nth instruction."""
    before = sys.gettrace()
    # Python 3.12 traces instructions only if a frame wanted them before `settrace` was called.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(Interrupter(nth))
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def every_instruction(work: Callable[[int], bool]) -> int:
    nth = 1
    while work(nth):
        nth += 1
    return nth - 1


@pytest.mark.bare
def test_interrupt_at_any_step_of_entry_takes_nothing() -> None:
    def once(nth: int) -> bool:
        slots, got = Slots(1, 5, LONG), list[Permit | None]()
        interrupted = interrupted_at(nth, lambda: got.append(slots.acquire()))
        got.clear()
        assert (slots.inside, slots.waiting) == (0, 0), nth
        return interrupted

    assert every_instruction(once) > 30


@pytest.mark.bare
def test_interrupt_at_any_step_of_waiting_takes_nothing() -> None:
    def once(nth: int) -> bool:
        slots, got = Slots(1, 5, 0.001), list[Permit | None]()
        kept = entered(slots)
        interrupted = interrupted_at(nth, lambda: got.append(slots.acquire()))
        assert (slots.inside, slots.waiting) == (1, 0), nth
        slots.release(kept)
        assert slots.inside == 0
        return interrupted

    assert every_instruction(once) > 80


@pytest.mark.bare
def test_interrupt_at_any_step_of_release_admits_next() -> None:
    def once(nth: int) -> bool:
        slots = Slots(1, 5, LONG)
        holder = [entered(slots)]
        turn = threading.Event()
        waiting = Permit(slots)
        assert slots._line_up(waiting, turn.set)
        interrupted = interrupted_at(nth, lambda: slots.release(holder[0]))
        holder.clear()  # what the interrupted caller's frame does when it ends
        assert turn.is_set(), nth
        assert slots._was_let_in(waiting), nth
        assert (slots.inside, slots.waiting) == (1, 0)
        return interrupted

    assert every_instruction(once) > 30


def test_who_is_interrupted_in_queue_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    slots = Slots(1, 5, LONG)
    kept = entered(slots)
    monkeypatch.setattr(threading, "Event", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        slots.acquire()
    assert (slots.inside, slots.waiting) == (1, 0)
    slots.release(kept)


def test_interrupted_waker_still_wakes_the_waiter() -> None:
    slots = Slots(1, 5, LONG)
    kept, waiting = entered(slots), Permit(slots)
    woken: list[int] = []

    def wake() -> None:
        woken.append(1)
        if len(woken) == 1:
            raise KeyboardInterrupt

    assert slots._line_up(waiting, wake)
    with pytest.raises(KeyboardInterrupt):
        slots.release(kept)
    assert len(woken) == 2
    assert slots._was_let_in(waiting)
    assert (slots.inside, slots.waiting) == (1, 0)


def test_who_finds_queue_full_after_he_looked_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = Slots(1, 0, LONG)
    kept = entered(slots)
    monkeypatch.setattr(Slots, "_may_wait", lambda *_: True)  # as it was a moment ago
    assert slots.acquire() is None
    assert asyncio.run(slots.acquire_async()) is None
    assert (slots.inside, slots.waiting) == (1, 0)
    slots.release(kept)


def test_who_has_nothing_that_could_wake_him_is_let_in_too() -> None:
    slots = Slots(1, 5, LONG)
    kept, waiting = entered(slots), Permit(slots)
    slots._queued[waiting] = None
    slots.release(kept)
    assert slots._was_let_in(waiting)
    assert slots.waiting == 0


def test_unreferenced_permit_goes_to_next() -> None:
    slots = Slots(1, 5, LONG)
    kept: Permit | None = entered(slots)
    with thread(lambda: slots.release(entered(slots))):
        soon(lambda: slots.waiting == 1)
        assert kept is not None
        kept = None
    assert (slots.inside, slots.waiting) == (0, 0)


def test_permit_found_lost_in_another_call_does_no_harm() -> None:
    slots = Slots(2, 5, LONG)
    circle: list[Any] = [entered(slots)]
    circle.append(circle)
    other = entered(slots)
    del circle
    with slots._lock:  # where the garbage collector may start in the same thread
        gc.collect()
        assert slots.inside == 1
    slots.release(other)
    assert slots.inside == 0


# Load.


def test_of_sixteen_threads_that_come_at_once_three_go_in() -> None:
    gates = [Slots(3, 0, 0.0) for _ in range(100)]
    together = threading.Barrier(16)
    inside: list[tuple[Slots, Permit]] = []

    def work() -> None:
        for slots in gates:
            together.wait(60)
            permit = slots.acquire()
            if permit is not None:
                inside.append((slots, permit))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                stack.enter_context(thread(work))
    finally:
        sys.setswitchinterval(before)
    assert [sum(slots is one for one, _ in inside) for slots in gates] == [3] * 100


class Crowd:
    """Callers that come, stay a moment, run out of time and are cancelled, for a while.

    The while is longer on a slow machine: until each of these has happened often enough.
    """

    def __init__(self, slots: Slots, seconds: float, most: float = 15.0) -> None:
        self.slots = slots
        self.ends = time.monotonic() + seconds
        self.ends_at_last = time.monotonic() + most
        self.lock = threading.Lock()
        self.inside = self.most = self.served = self.refused = self.cancelled = 0

    @property
    def goes_on(self) -> bool:
        now = time.monotonic()
        enough = self.served > 10 and self.refused > 1 and self.cancelled > 1
        return now < (self.ends if enough else self.ends_at_last)

    @contextlib.contextmanager
    def counted(self, permit: Permit) -> Iterator[None]:
        with self.lock:
            self.inside += 1
            self.served += 1
            self.most = max(self.most, self.inside)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
            self.slots.release(permit)

    def in_thread(self, seed: int) -> None:
        draw = random.Random(seed)
        while self.goes_on:
            permit = self.slots.acquire(draw.choice([None, 0.0, 0.001]))
            if permit is None:
                self.refused += 1
                continue
            with self.counted(permit):
                time.sleep(draw.choice([0, 0, 0, 0.0005]))

    async def in_task(self, draw: random.Random) -> None:
        permit = await self.slots.acquire_async(draw.choice([None, 0.0, 0.001]))
        if permit is None:
            self.refused += 1
            return
        with self.counted(permit):
            await asyncio.sleep(draw.choice([0, 0, 0.0005]))

    async def in_loop(self, seed: int) -> None:
        draw = random.Random(seed)
        tasks: set[asyncio.Task[None]] = set()
        while self.goes_on:
            tasks |= {asyncio.create_task(self.in_task(draw)) for _ in range(8 - len(tasks))}
            for _ in range(draw.randrange(4)):
                await asyncio.sleep(0)
            draw.choice(sorted(tasks, key=id)).cancel()
            done, tasks = await asyncio.wait(
                tasks, return_when=asyncio.FIRST_COMPLETED, timeout=0.01
            )
            for task in done:
                assert task.cancelled() or task.exception() is None
                self.cancelled += task.cancelled()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("limit", [1, 3])
def test_threads_and_two_loops_keep_limit_and_lose_nothing(limit: int) -> None:
    slots = Slots(limit, 12, 0.02)
    crowd = Crowd(slots, seconds=0.7)
    with contextlib.ExitStack() as stack:
        for seed in range(6):
            stack.enter_context(thread(partial(crowd.in_thread, seed)))
        for seed in range(2):
            stack.enter_context(thread(lambda seed=seed: asyncio.run(crowd.in_loop(seed))))  # type: ignore[misc]
    assert (slots.inside, slots.waiting, crowd.inside) == (0, 0, 0)
    assert 1 <= crowd.most <= limit
    assert crowd.served > 10
    assert crowd.refused > 1
    assert crowd.cancelled > 1
    # Every place can still be had.
    permits = [entered(slots, 0.0) for _ in range(limit)]
    assert slots.acquire(0.0) is None
    del permits


class GateMachine(RuleBasedStateMachine):
    """Slots against two plain lists: who is inside, and who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.slots = Slots(LIMIT, QUEUE, LONG)
        self.inside: list[asyncio.Task[Permit | None]] = []
        self.waiting: list[asyncio.Task[Permit | None]] = []

    def teardown(self) -> None:
        for task in (*self.inside, *self.waiting):
            task.cancel()
        self.turn(3)
        self.loop.close()

    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.run_until_complete(asyncio.sleep(0))

    def advance(self) -> None:
        while self.waiting and len(self.inside) < LIMIT:
            self.inside.append(self.waiting.pop(0))

    @rule()
    def one_comes(self) -> None:
        task = self.loop.create_task(self.slots.acquire_async())
        self.turn(1)
        if len(self.inside) < LIMIT or len(self.waiting) < QUEUE:
            self.waiting.append(task)
            self.advance()
        else:
            assert self.loop.run_until_complete(task) is None

    @precondition(lambda self: self.inside)
    @rule(draw=st.integers(min_value=0), turns=st.integers(min_value=0, max_value=3))
    def one_goes(self, draw: int, turns: int) -> None:
        permit = self.loop.run_until_complete(self.inside.pop(draw % len(self.inside)))
        assert permit is not None
        self.slots.release(permit)
        self.turn(turns)
        self.advance()

    @precondition(lambda self: self.inside or self.waiting)
    @rule(draw=st.integers(min_value=0))
    def one_is_cancelled(self, draw: int) -> None:
        # Those who were let in a moment ago, too: they may not have been woken yet.
        everyone = self.inside + self.waiting
        task = everyone[draw % len(everyone)]
        if not task.cancel():
            return
        self.turn(3)
        assert task.cancelled()
        (self.inside if task in self.inside else self.waiting).remove(task)
        self.advance()

    @invariant()
    def the_numbers_are_those_of_the_lists(self) -> None:
        assert (self.slots.inside, self.slots.waiting) == (len(self.inside), len(self.waiting))


LIMIT, QUEUE = 2, 3
TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(
    max_examples=settings().max_examples * 3 // 5, stateful_step_count=40, deadline=None
)


@pytest.mark.bare
def test_no_outcome_of_a_call_costs_memory() -> None:
    slots = Slots(1, 2, LONG)

    async def load(count: int) -> None:
        for _ in range(count):
            permit = entered(slots)
            assert await slots.acquire_async(0.0) is None
            assert slots.acquire(1e-6) is None
            task = asyncio.create_task(slots.acquire_async())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            slots.release(permit)

    async def held_after(count: int) -> int:
        await load(count)
        gc.collect()
        # What calls are made of: threads that other tests left allocate in this process too.
        of_calls = [
            tracemalloc.Filter(inclusive=True, filename_pattern=pattern)
            for pattern in (SOURCE, "*/asyncio/*", __file__)
        ]
        taken = tracemalloc.take_snapshot().filter_traces(of_calls)
        return sum(trace.size for trace in taken.traces)

    asyncio.run(load(300))
    tracemalloc.start()
    try:
        # asyncio keeps up to a hundred timers that were called off.
        few, many = asyncio.run(held_after(300)), asyncio.run(held_after(2_000))
    finally:
        tracemalloc.stop()
    assert many - few < 60_000


# The numbers, and who shares slots.


def test_each_scope_has_its_own_slots() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.slots_for() is bulkhead.slots_for()
    assert bulkhead.slots_for("a") is bulkhead.slots_for("a")
    assert bulkhead.slots_for("a") is not bulkhead.slots_for("b")


def test_equal_bulkheads_have_separate_slots() -> None:
    first, second = Bulkhead(1), Bulkhead(1)
    kept = entered(first.slots_for())
    assert first == second
    assert hash(first) == hash(second)
    assert first != Bulkhead(2)
    assert second.slots_for().inside == 0
    assert attrs.evolve(first, limit=2).slots_for().inside == 0
    assert "_gates" not in repr(first)
    first.slots_for().release(kept)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda bulkhead: pickle.loads(pickle.dumps(bulkhead))]
)
def test_copy_of_used_bulkhead_has_places_of_its_own(copied: Any) -> None:
    bulkhead = Bulkhead(1, queue=2, wait=3.0)
    kept = entered(bulkhead.slots_for())
    other = copied(bulkhead)
    assert other == bulkhead
    assert other.slots_for().inside == 0
    bulkhead.slots_for().release(kept)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 0}, "Bulkhead.limit must be a whole number at least 1, got 0"),
        ({"limit": 1.5}, "Bulkhead.limit must be a whole number at least 1, got 1.5"),
        ({"limit": 1, "queue": -1}, "Bulkhead.queue must be a whole number at least 0, got -1"),
        ({"limit": 1, "wait": -1}, "Bulkhead.wait must be a finite number of seconds at least 0"),
        ({"limit": 1, "wait": 1}, r"queue \(0\) and Bulkhead.wait \(1 s\) must be given together"),
        ({"limit": 1, "queue": 1}, r"queue \(1\) and Bulkhead.wait \(0 s\) must be given together"),
    ],
)
def test_bulkhead_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bulkhead(**fields)

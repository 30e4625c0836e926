"""The service of a simulation: slots, a queue, and what an incident does to them.

It models what answers, and nothing of what calls. A service works through its calls in virtual
time; one timer stands for all of them. Knows nothing of policies or of how calls get here.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from heapq import heappop, heappush
from random import Random
from typing import Any

import attrs

from iii_resilience.cli.simulation.scenario import Incident, Service
from iii_resilience.core.codes.model import Category
from iii_resilience.handling.hardening.error_encoding import encode_error, structured

_SIGMA = 1.0  # of the lognormal distribution: its 99th percentile is six times its mean


class SimulatedError(Exception):
    """An error as the engine answers it; the library goes by its code.

    Args:
        code: The code.
        message: The message.
        function_id: The function that was called.
    """

    def __init__(self, code: str, message: str, function_id: str) -> None:
        self.code = code
        self.message = message
        self.function_id = function_id
        super().__init__(f"{code}: {message}")  # as the SDK words it


def not_found(function_id: str) -> SimulatedError:
    """The engine's answer to a call of a function that is not registered."""
    message = f"Function {function_id} not found in namespace default"
    return SimulatedError("function_not_found", message, function_id)


@attrs.define(eq=False)
class Job:
    """One attempt at a service.

    Attributes:
        request: The request, as the SDK takes it.
        reply: Ends with the answer; done before where the caller has given up.
        work: Seconds it takes at full speed.
        luck: A number in [0, 1): below the error rate it fails.
    """

    request: dict[str, Any]
    reply: asyncio.Future[Any]
    work: float
    luck: float

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.reply.done():
            self.reply.set_exception(error)


Nested = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Calls another function for a request that is being served."""


class ServiceModel:
    """The service of one function.

    Args:
        function_id: The function.
        settings: Its slots, times and limits.
        nested: Calls the function that it calls in turn.
    """

    def __init__(self, function_id: str, settings: Service, nested: Nested) -> None:
        self.function_id = function_id
        self.registered = True
        self._settings = settings
        self._nested = nested
        self._conditions = Conditions.of(())
        self._serving = _Serving(settings.slots, self._worked)
        self._waiting: deque[Job] = deque()
        self._outside: deque[tuple[Job, asyncio.TimerHandle]] = deque()
        self._nesting: dict[asyncio.Task[None], Job] = {}

    def apply(self, incidents: Iterable[Incident]) -> None:
        """Go by these incidents from now on.

        Args:
            incidents: Those that are under way.
        """
        self._conditions = conditions = Conditions.of(incidents)
        if self.registered and conditions.down:
            self._kill()
        self.registered = not conditions.down
        self._serving.at_speed(conditions.capacity)

    def place(self, request: dict[str, Any], reply: asyncio.Future[Any], random: Random) -> None:
        """Take a call.

        Args:
            request: The request.
            reply: Ends with the answer.
            random: Of the call.
        """
        if not self.registered:
            reply.set_exception(not_found(self.function_id))
            return
        settings = self._settings
        work = settings.service_time * _draw(settings.distribution, random)
        job = Job(request, reply, work, random.random())
        limit = settings.limit
        if limit is not None and self._inside >= limit.concurrency:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(limit.wait, self._refuse_outside, job)
            self._outside.append((job, timer))
        else:
            self._accept(job)

    @property
    def _inside(self) -> int:
        return len(self._serving) + len(self._nesting) + len(self._waiting)

    def _accept(self, job: Job) -> None:
        settings = self._settings
        if settings.discipline == "sharing" or self._free:
            self._serving.start(job)
        elif settings.queue is None or len(self._waiting) < settings.queue:
            self._waiting.append(job)
        else:
            self._refuse(job, settings.service_time)

    @property
    def _free(self) -> bool:
        return len(self._serving) + len(self._nesting) < self._settings.slots

    def _refuse(self, job: Job, retry_after: float) -> None:
        message = f"the worker of {self.function_id} is full"
        text = structured(
            Category.TRANSIENT,
            "OVERLOADED",
            message,
            function_id=self.function_id,
            retry_after_ms=math.ceil(retry_after * 1000),
        )
        job.fail(SimulatedError("invocation_failed", text, self.function_id))

    def _refuse_outside(self, job: Job) -> None:
        self._outside = deque(pair for pair in self._outside if pair[0] is not job)
        limit = self._settings.limit
        self._refuse(job, self._settings.service_time if limit is None else limit.wait)

    def _worked(self, job: Job) -> None:
        """A call has had its time: it fails, calls on, or is answered."""
        conditions, following = self._conditions, self._settings.calls
        if job.luck < conditions.error_rate:
            code = conditions.code
            job.fail(SimulatedError(code, f"{code} (simulated)", self.function_id))
        elif following is not None and not job.reply.done():
            task = asyncio.get_running_loop().create_task(self._call_on(job, following))
            self._nesting[task] = job
            task.add_done_callback(self._called_on)
            return
        elif not job.reply.done():
            job.reply.set_result({"ok": True})
        self._next()

    async def _call_on(self, job: Job, following: str) -> None:
        started = asyncio.get_running_loop().time()
        try:
            answer = await self._nested(following, job.request)
        except Exception as error:
            text = str(encode_error(error, since=started))
            job.fail(SimulatedError("invocation_failed", text, self.function_id))
        else:
            if not job.reply.done():
                job.reply.set_result(answer)

    def _called_on(self, task: asyncio.Task[None]) -> None:
        if self._nesting.pop(task, None) is not None:
            self._next()

    def _next(self) -> None:
        """A slot has come free."""
        while self._waiting and self._free:
            job = self._waiting.popleft()
            if not (self._settings.skip_abandoned and job.reply.done()):
                self._serving.start(job)
        limit = self._settings.limit
        while self._outside and limit is not None and self._inside < limit.concurrency:
            job, timer = self._outside.popleft()
            timer.cancel()
            if not (self._settings.skip_abandoned and job.reply.done()):
                self._accept(job)

    def _kill(self) -> None:
        """The worker is gone, and with it whatever it had taken."""
        jobs = [*self._serving.clear(), *self._waiting, *self._nesting.values()]
        for job, timer in self._outside:
            timer.cancel()
            jobs.append(job)
        tasks = list(self._nesting)
        self._waiting.clear()
        self._outside.clear()
        self._nesting.clear()
        for task in tasks:
            task.cancel()
        for job in jobs:
            message = "Invocation stopped"
            job.fail(SimulatedError("invocation_stopped", message, self.function_id))


@attrs.frozen
class Conditions:
    """What the incidents under way do to a service together.

    Attributes:
        capacity: Its speed, as a part of the usual one.
        error_rate: The part of the calls that fail.
        code: The code they fail with.
        down: Whether its worker is gone.
    """

    capacity: float
    error_rate: float
    code: str
    down: bool

    @classmethod
    def of(cls, incidents: Iterable[Incident]) -> Conditions:
        """Their speeds are multiplied, and so are the parts of calls that do not fail."""
        capacity, good, code, down = 1.0, 1.0, "", False
        for incident in incidents:
            capacity *= incident.capacity
            good *= 1.0 - incident.error_rate
            if incident.error_rate > 0:
                code = incident.code
            down = down or incident.down == "worker"
        return cls(capacity, 1.0 - good, code, down)


class _Serving:
    """Calls that are being served, each with the same part of the speed.

    ``_level`` is the work that a call which has been here from the beginning would have had. A call
    ends when the level reaches that of its start plus its work. So a change of speed, or one more
    call that shares it, changes no call but only when the level gets there.

    Args:
        slots: Calls that are served at full speed.
        ended: Is called with a call that has had its work.
    """

    def __init__(self, slots: int, ended: Callable[[Job], None]) -> None:
        self._slots = slots
        self._ended = ended
        self._speed = 1.0
        self._level = 0.0
        self._since = 0.0
        self._heap: list[tuple[float, int, Job]] = []
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def start(self, job: Job) -> None:
        """Serve one more call from now on."""
        self._pass_time()
        self._number += 1
        heappush(self._heap, (self._level + job.work, self._number, job))
        self._arm()

    def at_speed(self, speed: float) -> None:
        """Serve with another speed from now on; 0 stands still."""
        self._pass_time()
        self._speed = speed
        self._arm()

    def clear(self) -> list[Job]:
        """Serve none of them any longer."""
        self._pass_time()
        jobs = [job for _, _, job in self._heap]
        self._heap.clear()
        self._arm()
        return jobs

    @property
    def _rate(self) -> float:
        return self._speed * min(1.0, self._slots / len(self._heap)) if self._heap else 0.0

    def _pass_time(self) -> None:
        now = asyncio.get_running_loop().time()
        self._level += (now - self._since) * self._rate
        self._since = now

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        rate = self._rate
        if rate > 0:
            left = max(0.0, (self._heap[0][0] - self._level) / rate)
            self._timer = asyncio.get_running_loop().call_later(left, self._due)

    def _due(self) -> None:
        self._pass_time()
        ended: list[Job] = []
        # The first has its work by definition, whatever the sums were rounded to.
        while self._heap and (not ended or self._heap[0][0] <= self._level):
            ended.append(heappop(self._heap)[2])
        self._timer = None
        self._arm()
        for job in ended:
            self._ended(job)


def _draw(distribution: str, random: Random) -> float:
    """A factor with the mean 1; made of uniform numbers alone, the same on every Python."""
    first = random.random()
    if distribution == "uniform":
        return 2 * first
    if distribution == "exponential":
        return -math.log(1.0 - first)
    if distribution == "lognormal":
        normal = math.sqrt(-2 * math.log(1.0 - first)) * math.cos(2 * math.pi * random.random())
        return math.exp(_SIGMA * normal - _SIGMA**2 / 2)
    return 1.0

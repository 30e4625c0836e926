"""A scenario as data: who calls, what answers, and what goes wrong when; all times are seconds.

Files say it in whole milliseconds (`scenario_files`). Knows nothing of files or event loops.
"""

from __future__ import annotations

import attrs

from iii_resilience.core.validators import Choice, Flag, Part, Text, number

FUNCTION = "orders::save"
"""The function that is called where a scenario names none."""


@attrs.frozen
class Calls:
    """The callers: how many, how often, and how long they wait.

    Args:
        function: The function that is called.
        rate: Calls a second, of all processes together.
        processes: Processes that call, each with a budget and breaker of its own.
        arrivals: When calls start: at random with that rate (poisson), or evenly.
        timeout: Seconds an attempt may take where its policy has no attempt_timeout.
        in_time: Seconds within which an answer counts as in time.
        via: What makes the calls: worker.trigger (trigger) or @iii_retry (decorator).
        idempotent: Whether the calls are declared idempotent.
        accept_enqueued: Whether a call may be handed to the queue of its policy's fallback.
    """

    function: str = attrs.field(default=FUNCTION, validator=Text("a function id"))
    rate: float = attrs.field(default=120.0, validator=number(above=0, most=10_000))
    processes: int = attrs.field(default=40, validator=number(least=1, most=2_000, integer=True))
    arrivals: str = attrs.field(default="poisson", validator=Choice(("poisson", "even")))
    timeout: float = attrs.field(default=1.0, validator=number(above=0, unit="seconds"))
    in_time: float = attrs.field(default=5.0, validator=number(above=0, unit="seconds"))
    via: str = attrs.field(default="trigger", validator=Choice(("trigger", "decorator")))
    idempotent: bool = attrs.field(default=True, validator=Flag())
    accept_enqueued: bool = attrs.field(default=False, validator=Flag())


@attrs.frozen
class Shedding:
    """A worker that refuses what it cannot start soon, as ``limit=`` of `resilient` does.

    Args:
        concurrency: Calls the worker takes at once.
        wait: Seconds a further call waits for its turn before it is refused as OVERLOADED.
    """

    concurrency: int = attrs.field(default=50, validator=number(least=1, integer=True))
    wait: float = attrs.field(default=0.1, validator=number(least=0, unit="seconds"))


@attrs.frozen
class Service:
    """What answers the calls of one function.

    Args:
        slots: Calls that are served at once at full speed.
        service_time: Seconds that serving one call takes on average.
        distribution: How that time varies.
        discipline: Whether calls beyond the slots wait in a queue (fifo), or all calls share the
            slots' speed (sharing).
        queue: Calls that may wait; a further one is refused as OVERLOADED. None for no limit.
        skip_abandoned: Whether an attempt whose caller has given up is not started.
        limit: What refuses calls before they wait too long; None for nothing.
        calls: The function that each call calls in turn, or None.
        policy: Name of the policy of that call; None for the one that the rules choose.
    """

    slots: int = attrs.field(default=20, validator=number(least=1, integer=True))
    service_time: float = attrs.field(default=0.1, validator=number(above=0, unit="seconds"))
    distribution: str = attrs.field(
        default="fixed", validator=Choice(("fixed", "uniform", "exponential", "lognormal"))
    )
    discipline: str = attrs.field(default="fifo", validator=Choice(("fifo", "sharing")))
    queue: int | None = attrs.field(
        default=None, validator=number(least=0, integer=True, optional=True)
    )
    skip_abandoned: bool = attrs.field(default=False, validator=Flag())
    limit: Shedding | None = attrs.field(
        default=None, validator=Part((Shedding,), "Shedding(concurrency=50)", optional=True)
    )
    calls: str | None = attrs.field(default=None, validator=Text("a function id", optional=True))
    policy: str | None = attrs.field(
        default=None, validator=Text("the name of a policy", optional=True)
    )


@attrs.frozen
class Incident:
    """One entry of the timetable: what goes wrong, from when until when.

    Args:
        start: Seconds from the beginning at which it starts.
        end: Seconds from the beginning at which it ends.
        service: The function whose service it hits; None for the called one.
        capacity: The speed of the service meanwhile, as a part of its usual one.
        error_rate: The part of the calls that fail meanwhile.
        code: The code they fail with.
        down: What is gone meanwhile: the service's worker (calls in flight end with
            invocation_stopped, then function_not_found), or the engine (connections are lost).
    """

    start: float = attrs.field(validator=number(least=0, unit="seconds"))
    end: float = attrs.field(validator=number(above=0, unit="seconds"))
    service: str | None = attrs.field(default=None, validator=Text("a function id", optional=True))
    capacity: float = attrs.field(default=1.0, validator=number(least=0, most=100))
    error_rate: float = attrs.field(default=0.0, validator=number(least=0, most=1))
    code: str = attrs.field(default="invocation_error", validator=Text("an error code"))
    down: str = attrs.field(default="nothing", validator=Choice(("nothing", "worker", "engine")))

    def __attrs_post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError(
                f"Incident.end ({self.end:.15g} s) must be above Incident.start "
                f"({self.start:.15g} s)"
            )


@attrs.frozen
class Scenario:
    """What happens in one simulation.

    Attributes:
        name: What it is called.
        duration: Seconds in which calls start.
        calls: The callers.
        services: What answers, by function id; the called function is among them.
        timetable: What goes wrong, in the order of its start.
        source: The file it is from, for messages.
    """

    name: str
    duration: float
    calls: Calls
    services: dict[str, Service]
    timetable: tuple[Incident, ...] = ()
    source: str = ""

    @property
    def trouble(self) -> tuple[float, float]:
        """When trouble starts and when the last of it ends, in seconds; the whole without any."""
        if not self.timetable:
            return 0.0, self.duration
        return (
            min(incident.start for incident in self.timetable),
            max(incident.end for incident in self.timetable),
        )

    def calling(self, function_id: str) -> Scenario:
        """The same for another called function, which the rules of a policy file may cover.

        Args:
            function_id: The function.
        """
        before = self.calls.function
        return attrs.evolve(
            self,
            calls=attrs.evolve(self.calls, function=function_id),
            services={
                function_id if name == before else name: service
                for name, service in self.services.items()
            },
            timetable=tuple(
                attrs.evolve(incident, service=function_id)
                if incident.service == before
                else incident
                for incident in self.timetable
            ),
        )

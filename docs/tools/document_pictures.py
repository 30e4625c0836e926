"""Draw the diagrams and plots of the documents: `make pictures`.

    python docs/tools/document_pictures.py          # write docs/pictures/*.svg
    python docs/tools/document_pictures.py --check  # exit with 1 if a picture is stale

The plots come from the library's own classes, with a fixed seed: the same code draws the same file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from drawing import COLOURS, Box, Picture, Plot

from iii_resilience.core.guards.breaker import Breaker
from iii_resilience.core.guards.budget import Budget, PermitBucket

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
_SEED = 26
_ALERT, _GOOD = "#fbe9e1", "#e5f3e8"


def overview() -> str:
    """The parts of a system, and where the library is in them."""
    picture = Picture(860, 300, "App, client, engine, worker and queue, with iii-resilience")
    app = picture.box(Box(20, 60, ("your service", "FastAPI, batch, …"), 150, 64))
    client = picture.box(
        Box(220, 40, ("client", "resilient(worker)", "wait, retry, give up"), 170, 104, _GOOD)
    )
    engine = picture.box(Box(450, 60, ("iii engine", "routes calls"), 140, 64))
    worker = picture.box(
        Box(660, 40, ("worker", "resilient(worker)", "deadlines, drain"), 180, 104, _GOOD)
    )
    queue = picture.box(Box(450, 200, ("queue", "retries, dead letters"), 140, 64))
    parked = picture.box(Box(660, 200, ("store", "keys, parked messages"), 180, 64))
    picture.arrow(app.at("right"), client.at("left"), words="call")
    picture.arrow(client.at("right"), engine.at("left"), words="trigger")
    picture.arrow(engine.at("right"), worker.at("left"), words="invoke")
    picture.arrow(
        client.at("bottom"), (305, 232), queue.at("left"), words="fallback", at=(232, 190)
    )
    picture.arrow(queue.at("top"), engine.at("bottom"), words="deliver", at=(526, 165))
    picture.arrow(worker.at("bottom"), parked.at("top"), words="@idempotent", at=(758, 168))
    picture.text((758, 184), "@consumer", size=12)
    picture.text((20, 285), "Green: where iii-resilience runs.", size=12)
    return picture.svg()


def call_states() -> str:
    """The life of a call as a state diagram."""
    picture = Picture(860, 420, "The states of one call")
    check = picture.box(Box(20, 60, ("validate", "payload, size, id")))
    wait = picture.box(Box(210, 60, ("wait", "connected, registered"), 170))
    flight = picture.box(Box(430, 60, ("in flight", "one attempt")))
    success = picture.box(Box(680, 60, ("success", "the result"), fill=_GOOD))
    decide = picture.box(Box(420, 190, ("decide", "category, policy, budget"), 170))
    sleep = picture.box(Box(220, 190, ("back off", "delay with jitter")))
    fallback = picture.box(Box(430, 320, ("fallback", "Enqueue, Reroute")))
    handed = picture.box(Box(680, 320, ("handed over", "receipt or result"), fill=_GOOD))
    error = picture.box(Box(680, 190, ("failed", "original error, report,", "hint"), fill=_ALERT))
    picture.arrow(check.at("right"), wait.at("left"))
    picture.arrow(wait.at("right"), flight.at("left"), words="send")
    picture.arrow(flight.at("right"), success.at("left"), words="answer")
    picture.arrow(
        flight.at("bottom"), decide.at("top"), words="error, timeout, lost", at=(511, 158)
    )
    picture.arrow(decide.at("left"), sleep.at("right"), words="retry")
    picture.arrow(sleep.at("top"), wait.at("bottom"))
    picture.arrow(decide.at("right"), error.at("left"), words="give up")
    picture.arrow(decide.at("bottom"), fallback.at("top"), words="give up", at=(511, 282))
    picture.arrow(fallback.at("right"), handed.at("left"), words="accepted")
    picture.arrow(fallback.at("right", 0.2), error.at("bottom"), words="refused", at=(690, 282))
    picture.arrow(
        check.at("bottom"),
        (95, 400),
        (845, 400),
        (845, 218),
        error.at("right"),
        words="invalid: nothing is sent",
        at=(105, 150),
    )
    picture.arrow(
        wait.at("top"),
        (295, 24),
        (848, 24),
        (848, 205),
        (830, 205),
        words="not connected or not registered in time",
        at=(302, 18),
    )
    return picture.svg()


def breaker_states() -> str:
    """The states of a circuit."""
    numbers = Breaker()
    picture = Picture(760, 230, "The states of a circuit breaker")
    closed = picture.box(Box(30, 90, ("closed", "calls are sent"), fill=_GOOD))
    opened = picture.box(Box(300, 90, ("open", "calls fail at once"), fill=_ALERT))
    half = picture.box(Box(570, 90, ("half-open", f"at most {numbers.probes} probes")))
    rate = f"{numbers.failure_rate:.0%} of at least {numbers.min_calls} calls"
    picture.arrow(closed.at("right", 0.3), opened.at("left", 0.3), words="too many failures")
    picture.text((180, 76), f"({rate} fail)", size=11)
    picture.arrow(opened.at("right", 0.3), half.at("left", 0.3), words=f"after {numbers.open:g} s")
    picture.arrow(half.at("left", 0.75), opened.at("right", 0.75))
    picture.text((456, 150), "a probe fails", size=12)
    picture.arrow(half.at("bottom"), (645, 200), (105, 200), closed.at("bottom"))
    picture.text((300, 192), f"{numbers.probes} probes succeed", size=12)
    return picture.svg()


def nested() -> str:
    """What nested retries cost, with and without the mark of earlier retries."""
    plot = Plot(
        "Attempts at the innermost function, 4 attempts a layer",
        ("layers that retry", 0.5, 4.5),
        ("attempts", 0, 260),
        ((1, 2, 3, 4), (0, 64, 128, 192, 256)),
    )
    attempts = 4
    for layers in (1, 2, 3, 4):
        for shift, colour, made in (
            (-0.28, COLOURS[1], attempts**layers),
            (0.02, COLOURS[0], attempts),
        ):
            x, y = plot.at(layers + shift, made)
            width = plot.at(layers + 0.26, 0)[0] - plot.at(layers, 0)[0]
            plot.bar((x, y), width, plot.at(layers, 0)[1] - y, colour)
            plot.text((x + width / 2, y - 4), str(made), anchor="middle", size=11)
    plot.bar((90, 50), 14, 10, COLOURS[1])
    plot.text((110, 60), "each layer retries", size=12)
    plot.bar((90, 68), 14, 10, COLOURS[0])
    plot.text((110, 78), "iii-resilience: only the innermost layer retries", size=12)
    return plot.svg()


def _load(rate: float, bucket: PermitBucket, attempts: int) -> float:
    """Attempts per call when a share of all attempts fails; 200 calls a second for a minute."""
    random = Random(_SEED)
    calls, sent = 12_000, 0
    for call in range(calls):
        now, permits = call / 200, 0
        succeeded = random.random() >= rate
        sent += 1
        while not succeeded and permits + 1 < attempts:
            if not bucket.reserve(now):
                break
            permits += 1
            sent += 1
            succeeded = random.random() >= rate
        if succeeded:
            bucket.succeeded(now, permits)
        else:
            bucket.gave_up(now, permits)
    return sent / calls


def budget() -> str:
    """The load on a failing function with and without a retry budget."""
    plot = Plot(
        "Load on a failing function: attempts per call, 200 calls a second",
        ("share of attempts that fail, in percent", 0, 100),
        ("attempts per call", 1, 4.2),
        ((0, 20, 40, 60, 80, 100), (1, 2, 3, 4)),
    )
    rates, attempts = [step / 40 for step in range(41)], 4
    without = [(100 * rate, sum(rate**n for n in range(attempts))) for rate in rates]
    within = [(100 * rate, _load(rate, Budget().bucket_for(), attempts)) for rate in rates]
    plot.curve(without, COLOURS[1], "4 attempts, no budget", 0)
    plot.curve(within, COLOURS[0], "4 attempts, default budget", 1)
    return plot.svg()


def deadline() -> str:
    """One call against its deadline and its attempts' timeouts."""
    picture = Picture(760, 210, "A deadline, timeouts and delays of one call")
    left, scale = 40, 65

    def at(seconds: float) -> float:
        return left + seconds * scale

    for start, end, words, colour in (
        (0, 1, "wait", "#d9dee6"),
        (1, 3, "attempt 1: timeout", "#f3c9b1"),
        (3, 3.5, "", "#d9dee6"),
        (3.5, 5.5, "attempt 2: timeout", "#f3c9b1"),
        (5.5, 6.6, "delay", "#d9dee6"),
        (6.6, 10, "attempt 3, cut to the time left", "#bcd9c3"),
    ):
        picture.bar((at(start), 70), (end - start) * scale - 2, 40, colour)
        picture.text((at((start + end) / 2), 94), words, anchor="middle", size=12)
    picture.text((at(3.25), 62), "delay", anchor="middle", size=11)
    picture.arrow((at(10), 160), (at(10), 40))
    picture.text((at(10) - 4, 34), "deadline (10 s)", anchor="end")
    picture.text((at(1), 134), "timeout_ms (2 s): one attempt", size=12)
    picture.text((at(0), 34), "ready_timeout: waiting for connection and function", size=12)
    picture.text(
        (at(0), 190), "No retry starts past the deadline, and no delay is slept past it.", size=12
    )
    return picture.svg()


def deploy() -> str:
    """A rolling deploy with a hot standby."""
    picture = Picture(
        760, 240, "A deploy without downtime: the old worker drains, the new one owns"
    )
    left, scale = 130, 60

    def at(seconds: float) -> float:
        return left + seconds * scale

    rows = (
        ("orders-1 (old)", 60, ((0, 5, "owner", "#bcd9c3"), (5, 7, "drain", "#f6e3b4"))),
        ("orders-2 (new)", 120, ((2, 5, "standby", "#d9dee6"), (5, 10, "owner", "#bcd9c3"))),
    )
    for name, y, parts in rows:
        picture.text((10, y + 24), name)
        for start, end, words, colour in parts:
            picture.bar((at(start), y), (end - start) * scale - 2, 40, colour)
            picture.text((at((start + end) / 2), y + 24), words, anchor="middle", size=12)
    picture.arrow((at(2), 200), (at(2), 164), words="start the new one", at=(at(2) - 50, 216))
    picture.arrow((at(5), 200), (at(5), 164), words="SIGTERM: hand over", at=(at(5) - 50, 216))
    picture.arrow((at(7), 200), (at(7), 104), words="old one exits", at=(at(7) - 36, 216))
    picture.text((at(0), 40), "Calls are answered all the time.", size=12)
    return picture.svg()


DRAWN: dict[str, Callable[[], str]] = {
    "overview.svg": overview,
    "call.svg": call_states,
    "breaker.svg": breaker_states,
    "nested.svg": nested,
    "budget_load.svg": budget,
    "deadline.svg": deadline,
    "deploy.svg": deploy,
}


def stale() -> list[str]:
    """The pictures that are missing or not what the code draws."""
    return [
        name
        for name, draw in DRAWN.items()
        if not (PICTURES / name).exists() or (PICTURES / name).read_text(encoding="utf-8") != draw()
    ]


def main() -> None:
    """Write or check the pictures."""
    if "--check" in sys.argv[1:]:
        if found := stale():
            sys.exit(f"stale, run 'make pictures': {', '.join(found)}")
        return
    PICTURES.mkdir(exist_ok=True)
    for name, draw in DRAWN.items():
        (PICTURES / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()

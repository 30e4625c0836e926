"""Policies that change while the program runs: as a whole, or not at all."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from support.waiting import until

from iii_resilience import (
    ConfigError,
    PolicyBook,
    classify,
    iii_retry,
    load_policies,
    report_for,
    use_policies,
)
from iii_resilience.config.policy_set import PolicySet
from iii_resilience.config.watch import SourceCheck
from iii_resilience.core.guards.breaker import Rejection, Ticket


def write(path: Path, text: str) -> None:
    """In one step, as editors and deployments do."""
    other = path.with_suffix(".new")
    other.write_text(text, encoding="utf-8")
    other.replace(path)


def attempts(count: int, rest: str = "") -> str:
    return f"version: 1\npolicies:\n  default: {{attempts: {count}}}\n{rest}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    write(path, attempts(2))
    return path


@pytest.fixture
def book(path: Path) -> PolicyBook:
    return load_policies(path)


def errors(log: pytest.LogCaptureFixture) -> list[str]:
    ours = [each for each in log.records if each.name == "iii_resilience"]
    return [each.getMessage() for each in ours if each.levelno >= logging.ERROR]


def is_in_force(book: PolicyBook, count: int) -> bool:
    return book.policy_set.policy("default").attempts == count


class TestReload:
    def test_changed_file_takes_effect_and_is_read_once(self, book: PolicyBook, path: Path) -> None:
        before = book.policy_set
        assert book.reload() is False
        assert book.policy_set is before
        write(path, attempts(7))
        assert book.reload() is True
        assert book.for_function("f").policy.attempts == 7
        assert book.explain("f")["attempts"].value == 7

    def test_change_of_the_same_length_and_time_is_seen(self, book: PolicyBook, path: Path) -> None:
        times = path.stat()
        path.write_text(attempts(9), encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert book.reload() is True

    def test_what_does_not_validate_is_refused_as_a_whole(
        self, book: PolicyBook, path: Path
    ) -> None:
        write(path, attempts(7, "rules: [5]\n"))
        with pytest.raises(ConfigError, match=r"rules\.0"):
            book.reload()
        assert book.policy_set.policy("default").attempts == 2
        path.unlink()
        with pytest.raises(ConfigError, match="cannot be read"):
            book.reload()
        assert book.policy_set.policy("default").attempts == 2

    @pytest.mark.parametrize("made", [PolicyBook(), load_policies({"version": 1})])
    def test_book_without_files_cannot_change(self, made: PolicyBook) -> None:
        with pytest.raises(ValueError, match="made in code, not from files"):
            made.reload()
        with pytest.raises(ValueError, match="made in code, not from files"):
            made.watch()
        with pytest.raises(ValueError, match="made in code, not from files"):
            asyncio.run(made.watch_async())

    def test_decorated_functions_follow_their_book(self, book: PolicyBook, path: Path) -> None:
        calls = []

        @iii_retry(idempotent=True, policy="quick")
        def fails() -> None:
            calls.append(1)
            raise ConnectionResetError

        quick = "  quick: {{attempts: {}, backoff: {{base_ms: 0}}}}\n".format
        write(path, attempts(2, quick(2)))
        book.reload()
        use_policies(book)
        for count in (2, 3, 5):
            write(path, attempts(2, quick(count)))
            book.reload()
            calls.clear()
            with pytest.raises(ConnectionResetError):
                fails()
            assert len(calls) == count

    def test_call_in_flight_keeps_policy_it_started_with(
        self, book: PolicyBook, path: Path
    ) -> None:
        use_policies(book)
        write(path, attempts(3))
        book.reload()
        count = 0

        @iii_retry(idempotent=True)
        def fails() -> None:
            nonlocal count
            count += 1
            if count == 1:
                write(path, attempts(1))
                book.reload()
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError) as caught:
            fails()
        assert count == 3
        report = report_for(caught.value)
        assert report is not None
        assert len(report.attempts) == 3
        assert book.policy_set.policy("default").attempts == 1

    def test_codes_of_file_come_and_go_with_it(self, book: PolicyBook, path: Path) -> None:
        write(path, attempts(2, "codes: {OUT_OF_PAPER: transient, OUT_OF_INK: transient}\n"))
        book.reload()
        assert classify("OUT_OF_PAPER").category == "transient"
        write(path, attempts(2, "codes: {OUT_OF_PAPER: permanent}\n"))
        book.reload()
        assert classify("OUT_OF_PAPER").category == "permanent"
        assert not classify("OUT_OF_INK").known


GUARDED = """\
version: 1
policies:
  default:
    attempts: {attempts}
    budget: {{ratio: 0, burst: {burst}, min_per_second: 0}}
    breaker: {{min_calls: 1, open_ms: {open}}}
    bulkhead: {{limit: {limit}}}
"""


def test_guards_go_on_when_their_numbers_change(book: PolicyBook, path: Path) -> None:
    write(path, GUARDED.format(attempts=2, burst=20, open=60_000, limit=2))
    book.reload()
    before = book.policy_set.policy("default")
    assert before.budget is not None
    assert before.breaker is not None
    assert before.bulkhead is not None
    now = time.monotonic()
    bucket = before.budget.bucket_for("f")
    for _ in range(15):
        assert bucket.reserve(now)
    circuit = before.breaker.circuit_for("f")
    ticket = circuit.admit(now)
    assert isinstance(ticket, Ticket)
    circuit.failed(ticket, now, 0.1)
    inside = before.bulkhead.slots_for("f").acquire()
    assert inside is not None

    write(path, GUARDED.format(attempts=2, burst=3, open=50_000, limit=1))
    book.reload()
    after = book.policy_set.policy("default")
    assert after.budget is not None
    assert after.breaker is not None
    assert after.bulkhead is not None
    assert after.budget.bucket_for("f").available(now) == 3
    assert isinstance(after.breaker.circuit_for("f").admit(now), Rejection)
    assert after.bulkhead.slots_for("f").acquire() is None

    same = book.policy_set.policy("default")
    write(path, GUARDED.format(attempts=2, burst=3, open=50_000, limit=1) + "default: default\n")
    assert book.reload()
    assert book.policy_set.policy("default") is same


class TestWatch:
    def test_thread_follows_file(self, book: PolicyBook, path: Path) -> None:
        with book.watch(every=0.02) as watch:
            for count in (3, 5, 8):
                write(path, attempts(count))
                until(partial(is_in_force, book, count))
            assert watch.running
        assert not watch.running
        write(path, attempts(2))
        time.sleep(0.1)
        assert book.policy_set.policy("default").attempts == 8

    def test_invalid_file_is_one_record_and_keeps_policies(
        self, book: PolicyBook, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with book.watch(every=0.01):
            write(path, attempts(0, "rules: [5]\n"))
            until(lambda: errors(caplog))
            time.sleep(0.2)
            assert book.policy_set.policy("default").attempts == 2
            (message,) = errors(caplog)
            assert message.startswith(f"{path}: the changed policies are refused")
            assert f"{path}:3:13: policies.default.attempts: must be" in message
            assert f"{path}:4:9: rules.0: must be a mapping" in message
            write(path, attempts(-1))
            until(lambda: len(errors(caplog)) == 2)
            write(path, attempts(4))
            until(lambda: book.policy_set.policy("default").attempts == 4)
            write(path, attempts(-1))
            until(lambda: len(errors(caplog)) == 3)

    def test_file_that_is_away_for_while_is_one_error_record(
        self, book: PolicyBook, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with book.watch(every=0.01):
            path.unlink()
            until(lambda: errors(caplog))
            write(path, attempts(2))
            time.sleep(0.2)
            write(path, attempts(6))
            until(lambda: book.policy_set.policy("default").attempts == 6)
        (message,) = errors(caplog)
        assert "cannot be read: No such file or directory" in message

    def test_file_that_is_still_being_written_is_left_alone(
        self, book: PolicyBook, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = [100.0]
        look = SourceCheck(book, book._needed_source(), 1.0, clock=lambda: now[0])
        whole = attempts(9) + "".join(f"  p{n}: {{}}\n" for n in range(60))
        with path.open("w", encoding="utf-8") as file:
            for line in whole.splitlines(keepends=True):  # each line leaves a file that is valid
                file.write(line)
                file.flush()
                for _ in range(2):  # `look_now` is called again while a look is under way
                    assert look() == pytest.approx(0.1)
                now[0] += 0.05
                assert len(book.policy_set.policies) == 1
        assert look() == pytest.approx(0.05)
        now[0] += 0.06
        assert look() == 1.0
        assert len(book.policy_set.policies) == 61
        assert not errors(caplog)

    def test_task_follows_file(self, book: PolicyBook, path: Path) -> None:
        async def main() -> None:
            task = asyncio.create_task(book.watch_async(every=0.02))
            write(path, attempts(5))
            while book.policy_set.policy("default").attempts != 5:
                await asyncio.sleep(0.005)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        asyncio.run(asyncio.wait_for(main(), 20))

    def test_book_that_nobody_has_any_more_is_not_watched(self, path: Path) -> None:
        book = load_policies(path)
        watch, seen = book.watch(every=0.01), weakref.ref(book)
        del book
        until(lambda: not watch.running)
        assert seen() is None

    def test_what_goes_wrong_in_look_is_logged_and_it_goes_on(
        self,
        book: PolicyBook,
        path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("iii_resilience.config.files.file_source.Files.read", lambda _: 1 / 0)
            watch = book.watch(every=0.01)
            until(lambda: len(errors(caplog)) >= 2)
        with watch:
            write(path, attempts(5))
            until(lambda: book.policy_set.policy("default").attempts == 5)

    def test_look_can_be_asked_for_at_once(self, book: PolicyBook, path: Path) -> None:
        with book.watch(every=3600) as watch:
            write(path, attempts(5))
            while not is_in_force(book, 5):
                watch.look_now()
                time.sleep(0.01)

    @pytest.mark.parametrize("every", [0, -1.0, float("nan"), "1", None])
    def test_pause_that_makes_no_sense_is_refused(self, book: PolicyBook, every: object) -> None:
        with pytest.raises(ValueError, match="every must be a finite number of seconds above 0"):
            book.watch(every)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="every must be a finite number of seconds above 0"):
            asyncio.run(book.watch_async(every))  # type: ignore[arg-type]


def edition_of(number: int) -> str:
    """A file in which everything says the same number, the names too."""
    return (
        f"version: 1\npolicies:\n"
        f"  p{number}: {{attempts: {number}, max_stops: {number}, deadline_ms: {number}000,\n"
        f"    breaker: {{min_calls: {number}}}}}\n"
        f"  default: {{attempts: {number}, backoff: {{base_ms: 0}}}}\n"
        "rules:\n"
        f"  - {{function: f, policy: p{number}}}\n"
        f"  - {{function: 'g*', policy: p{number}}}\n"
        f"default: p{number}\n"
    )


def editions() -> int:
    gc.collect()
    # By type(): isinstance() asks a dead weak proxy of another test for its class, and it raises.
    return sum(type(each) is PolicySet for each in gc.get_objects())


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads take turns every 50 µs, not every 5 ms: reloads do not wait, and more interleaves."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("switching_often")
@pytest.mark.parametrize("reloads", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_reloads_under_eight_threads_are_seen_whole(path: Path, reloads: int) -> None:
    write(path, edition_of(1))
    book = load_policies(path)
    use_policies(book)
    ended, wrong, seen, at_first = threading.Event(), list[object](), set[int](), 0

    @iii_retry(idempotent=True, policy="default")
    def works() -> None:
        """Succeeds at once."""

    def whole(policy_set: PolicySet) -> None:
        number = policy_set.policy(policy_set.default).attempts
        seen.add(number)
        names = [policy_set.for_function(each).name for each in ("f", "g1", "other")]
        if names != [f"p{number}"] * 3 or policy_set.policy("default").attempts != number:
            wrong.append((number, names))

    def load() -> None:
        n = 0
        while not ended.is_set():
            n += 1
            try:
                whole(book.policy_set)
                for function in ("f", f"g{n}", f"other{n}"):
                    selected = book.for_function(function)
                    policy = selected.policy
                    number = policy.attempts
                    told = (selected.name, policy.max_stops, policy.deadline)
                    if told != (f"p{number}", number, float(number)):
                        wrong.append(told)
                works()
            except Exception as error:
                wrong.append(error)

    texts = [edition_of(number) for number in range(1, 6)]
    with ThreadPoolExecutor(8) as threads:
        loads = [threads.submit(load) for _ in range(8)]
        try:
            for n in range(reloads):
                write(path, texts[(n + 1) % 5])
                assert book.reload()
                if n == reloads // 2:
                    at_first = editions()
        finally:
            ended.set()
        for each in loads:
            each.result()
    assert wrong == []
    assert seen == {1, 2, 3, 4, 5}
    assert editions() <= at_first + 1
    assert len(book.policy_set._selected) <= 16_384


def test_relative_path_is_followed_after_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a daemon does, which changes to the root folder."""
    other = tmp_path / "other"
    other.mkdir()
    text = "version: 1\npolicies: {default: {attempts: %d}}\n"
    (tmp_path / "p.yaml").write_text(text % 2, "utf-8")
    (other / "p.yaml").write_text(text % 9, "utf-8")
    monkeypatch.chdir(tmp_path)
    book = load_policies("p.yaml")
    monkeypatch.chdir(other)
    assert book.reload() is False
    (tmp_path / "p.yaml").write_text(text % 3, "utf-8")
    assert book.reload() is True
    assert book.policy_set.policies["default"].attempts == 3
    with book.watch(every=0.05):
        (tmp_path / "p.yaml").write_text(text % 4, "utf-8")
        until(lambda: is_in_force(book, 4))

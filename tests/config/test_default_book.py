"""The policies of the whole process: from the environment, or from `use_policies`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iii_resilience import (
    ConfigError,
    PolicyBook,
    RetryPolicy,
    classify,
    iii_retry,
    load_policies,
    use_policies,
)
from iii_resilience.config.default_book import ENVIRONMENT, Default, default_book
from iii_resilience.config.files.file_source import from_environment


@pytest.fixture(autouse=True)
def nothing_loaded_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Default, "book", None)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "p.yaml"
    text = "version: 1\npolicies: {payments: {attempts: 3}}\ncodes: {OUT_OF_INK: transient}\n"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv(ENVIRONMENT, str(path))
    return path


def test_files_are_loaded_at_first_use_and_once(path: Path) -> None:
    assert not classify("OUT_OF_INK").known
    book = default_book()
    assert book.policy_set.policy("payments").attempts == 3
    assert classify("OUT_OF_INK").known
    path.unlink()
    assert default_book() is book


def test_decorated_function_finds_its_policy_there(path: Path) -> None:
    assert path.exists()
    calls = []

    @iii_retry(idempotent=True, policy="payments", backoff=RetryPolicy().backoff)
    def fails() -> None:
        calls.append(1)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        fails()
    assert len(calls) == 3


def test_several_files_are_separated_as_in_path(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "q.yaml"
    other.write_text("version: 1\npolicies: {payments: {max_stops: 9}}\n", encoding="utf-8")
    value = os.pathsep.join(["builtin:payments", str(path), str(other)])
    monkeypatch.setenv(ENVIRONMENT, value)
    policy = default_book().policy_set.policy("payments")
    assert (policy.attempts, policy.max_stops) == (3, 9)
    assert policy.breaker is not None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("a", ["a"]),
        ("a:b", ["a", "b"]),
        (":a::b:", ["a", "b"]),
        ("builtin:payments", ["builtin:payments"]),
        ("builtin:payments:builtin:default:a", ["builtin:payments", "builtin:default", "a"]),
        ("/x/builtin:a", ["/x/builtin", "a"]),
    ],
)
def test_colon_of_ready_made_file_separates_nothing(text: str, names: list[str]) -> None:
    assert from_environment(text.replace(":", os.pathsep)) == names


@pytest.mark.parametrize("value", ["", None])
def test_without_it_built_in_default_is_used(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(ENVIRONMENT, raising=False)
    else:
        monkeypatch.setenv(ENVIRONMENT, value)
    assert default_book() == PolicyBook()
    assert default_book() is default_book()


def test_error_names_variable_and_stays_until_mended(path: Path) -> None:
    path.write_text("version: 2\npolicies: []\n", encoding="utf-8")

    @iii_retry(idempotent=True)
    def works() -> int:
        return 5

    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            works()
        first, second = caught.value.problems
        assert first.startswith(f"{ENVIRONMENT}: {path}:1:1: version: must be 1")
        assert second.startswith(f"{ENVIRONMENT}: {path}:2:1: policies: must be a mapping")
    path.write_text("version: 1\n", encoding="utf-8")
    assert works() == 5


def test_log_handler_that_retries_does_not_deadlock(path: Path) -> None:
    path.write_text("version: 1\nrules: [{function: '*', idempotent: true}]\n", encoding="utf-8")
    told: list[str] = []

    class Ships(logging.Handler):
        @iii_retry(idempotent=True)
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    handler = Ships()
    logging.getLogger("iii_resilience").addHandler(handler)
    try:
        assert default_book().policy_set.rules
    finally:
        logging.getLogger("iii_resilience").removeHandler(handler)
    assert len(told) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_child_can_load_and_reload_whatever_parent_was_doing(path: Path) -> None:
    code = (
        "import os, threading, iii_resilience.config.book as b\n"
        "import iii_resilience.config.default_book as d\n"
        "from iii_resilience.config.policy_set import PolicySet\n"
        "d.Default.lock.acquire(); b._turning.acquire()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    threading.Thread(target=d.default_book).start()\n"
        "    d.default_book().replace(PolicySet({}))\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, ENVIRONMENT: str(path)},
        check=False,
    )
    assert ran.stdout == "7\n"


def test_what_code_says_wins_over_environment(path: Path) -> None:
    path.write_text("not a policy file", encoding="utf-8")
    mine = load_policies({"version": 1})
    assert use_policies(mine) == PolicyBook()
    assert default_book() is mine


def test_book_of_environment_comes_back_when_it_is_put_back(path: Path) -> None:
    assert path.exists()
    before = use_policies(PolicyBook())
    assert before.policy_set.policy("payments").attempts == 3
    use_policies(before)
    assert default_book() is before


def test_threads_that_come_first_together_get_the_same_book(path: Path) -> None:
    assert path.exists()
    books, together = list[PolicyBook](), threading.Barrier(8)

    def come() -> None:
        together.wait()
        books.append(default_book())

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(book) for book in books}) == 1


def test_importing_reads_no_file() -> None:
    code = "import iii_resilience; iii_resilience.classify('TIMEOUT')"
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, ENVIRONMENT: "/nowhere"}, check=True
    )

"""Each example starts with one command, and does what its tutorial says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.paths import DOCS, ROOT
from support.ports import reserved_port
from support.postgres_fixtures import needs_postgres
from support.waiting import until

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def command(name: str, *more: str) -> list[str]:
    return [sys.executable, "-W", "error::ResourceWarning", str(ROOT / "examples" / name), *more]


def ran(name: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(name, "--loopback"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OTEL_ENABLED": "false", **more},
        check=False,
    )


def run(name: str, folder: Path, **more: str) -> list[str]:
    done = ran(name, folder, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_batch_stores_what_can_be_stored(tmp_path: Path) -> None:
    *failed, last = run("batch_httpx.py", tmp_path)
    assert [re.sub(r"^http://127.0.0.1:\d+", "", line) for line in failed] == [
        "/missing: not_retryable: discover"
    ]
    assert last == "2 of 3 documents stored"


def test_worker_writes_each_order_once(tmp_path: Path) -> None:
    assert run("worker_store.py", tmp_path) == ["5 orders written, 1 parked"]


@needs_postgres
def test_order_follows_each_payment(tmp_path: Path, postgres_url: str) -> None:
    said = run("worker_postgres.py", tmp_path, DATABASE_URL=postgres_url)
    assert said == ["5 payments, 5 orders, 1 parked"]


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/nothing", f"host={os.devnull}"])
def test_example_without_postgres_says_so(tmp_path: Path, url: str) -> None:
    done = ran("worker_postgres.py", tmp_path, DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("there is no PostgreSQL: set DATABASE_URL=postgresql://")


def test_deploy_fails_no_call(tmp_path: Path) -> None:
    calls, exited, answers = run("rolling_deploy.py", tmp_path)
    assert re.fullmatch(r"\d+ calls, none failed, \d+ went to the queue", calls)
    assert exited == "the old worker exited with 0"
    answered = re.fullmatch(r"after SIGTERM the new worker answered (\d+)", answers)
    assert answered is not None
    assert int(answered[1]) > 0


@pytest.fixture(scope="module")
def service() -> Iterator[httpx.Client]:
    with ExitStack() as stack:
        port = reserved_port()
        process = subprocess.Popen(
            command("fastapi_service.py", "--loopback", "--port", str(port)),
            env={**os.environ, "OTEL_ENABLED": "false"},
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(process.communicate)
        stack.callback(process.kill)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            until(lambda: is_up(client))
            yield client
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert "Application shutdown complete" in said
        assert "Exception in ASGI application" not in said  # a failed call is no bug


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


class TestService:
    @staticmethod
    def place(service: httpx.Client, key: str, amount: int) -> tuple[int, dict[str, Any]]:
        answer = service.post("/orders", json={"amount": amount}, headers={"Idempotency-Key": key})
        return answer.status_code, answer.json()

    def test_repetition_gets_first_result(self, service: httpx.Client) -> None:
        first = status, order = self.place(service, "o-1", 10)
        assert (status, order["amount"]) == (200, 10)
        assert self.place(service, "o-1", 10) == first
        following = {"number": order["number"] + 1, "amount": 10}
        assert self.place(service, "o-2", 10) == (200, following)

    def test_key_of_another_order_is_payload_failure(self, service: httpx.Client) -> None:
        self.place(service, "o-3", 10)
        status, body = self.place(service, "o-3", 20)
        assert (status, body["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")

    def test_order_needs_key(self, service: httpx.Client) -> None:
        assert service.post("/orders", json={"amount": 10}).status_code == 422


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_parts_that_documents_show_are_marked(path: Path) -> None:
    """Each part exists, ends, and is shown by a tutorial."""
    text = path.read_text(encoding="utf-8")
    parts = re.findall(r"^ *# \[(\w+)\]$", text, re.MULTILINE)
    assert parts[1::2] == ["end"] * (len(parts) // 2)
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("tutorials/*.md"))
    shown = re.findall(rf"examples/{path.name}\n(?::.*\n)*?:start-after: \"# \[(\w+)\]\"", pages)
    assert sorted(shown) == sorted(parts[::2])

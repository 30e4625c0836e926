"""The command line on terminals, pipes and inputs that are not as one hopes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.flaky_http import closed_port
from typer.testing import CliRunner

from iii_resilience import ConfigError, load_policies
from iii_resilience.cli.app import app
from iii_resilience.cli.terminal_text import without_credentials

MAIN = [sys.executable, "-c", "from iii_resilience.cli.main import main; main()"]


Ran = subprocess.CompletedProcess[bytes]


def command(*arguments: str, redirect: str = "", **more: Any) -> Ran:
    """A command in a shell of its own, with its streams redirected there."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *MAIN, *arguments],
        capture_output=True,
        check=False,
        timeout=60,
        **more,
    )


def in_one_line(ran: Ran) -> str:
    assert b"Traceback" not in ran.stderr
    (line,) = ran.stderr.decode().strip().splitlines()
    assert line.startswith("iii-resilience: ")
    return line


def test_closed_input_is_one_line() -> None:
    ran = command("explain", redirect="<&-")
    assert ran.returncode == 2
    assert "standard input is closed" in in_one_line(ran)


def test_full_disk_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    for arguments in (["codes"], ["--version"]):
        ran = command(*arguments, redirect=">/dev/full")
        assert ran.returncode == 1
        assert "No space left on device" in in_one_line(ran)


def test_closed_output_is_no_traceback() -> None:
    ran = command("codes", redirect=">&-")
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize("arguments", [["codes"], ["show", "ä::ü→"]])
def test_latin_1_terminal_shows_what_it_can(arguments: list[str]) -> None:
    ran = command(*arguments, env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"})
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.decode("latin-1").strip()


def test_input_of_any_bytes_is_read() -> None:
    ran = command("explain", input=b"\xff\xfe TIMEOUT: words \xe4\n")
    assert ran.returncode == 0
    assert b"TIMEOUT" in ran.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ws://user:secret@engine:1", "ws://***@engine:1"),
        ("no engine at redis://:secret@h:1/0 (x)", "no engine at redis://***@h:1/0 (x)"),
        ("wss://h/?token=secret&a=1", "wss://h/?token=***&a=1"),
        ("ws://h:1/a@b", "ws://h:1/a@b"),
        ("ws://user:se@cret@h", "ws://***@h"),
        ("redis://user:se/cret@h:1/0", "redis://***@h:1/0"),
        ("redis://user:se#c:ret@h", "redis://***@h"),
        ("no file 'host=h password=secret'", "no file 'host=h password=***'"),
        ("postgresql://h/x?user=u&password=secret", "postgresql://h/x?user=u&password=***"),
    ],
)
def test_credentials_are_hidden(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_engine_urls_are_shown_without_credentials() -> None:
    url = f"ws://user:s3cret@127.0.0.1:{closed_port()}/?token=s3cret"
    for arguments in (["doctor", "--engine", url], ["dlq", "list", "orders", "--engine", url]):
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code != 0
        assert "127.0.0.1" in ran.output
        assert "s3cret" not in ran.output


@pytest.mark.parametrize(
    "url",
    [
        "user:s3c@ret@host",
        "ws//user:s3cret@host",
        "user:a://s3cret@host",
        "ws://user:s3c ret@127.0.0.1:1",
        "ws://user:s3c#ret@host",
        "ws://user:s3c/ret@host",
        "ws://user:s3c[ret@host",
        "ws://user:s3cret\u2100@host",
    ],
)
def test_wrong_address_shows_no_part_of_password(url: str) -> None:
    for arguments in (
        ["doctor", "--engine", url],
        ["dlq", "list", "orders", "--engine", url],
        ["dlq", "list", "orders", "--offline", "--parking", url.replace("ws", "redi")],
    ):
        ran = CliRunner().invoke(app, arguments)
        assert any(text in ran.output for text in ("cannot be reached", "no engine", "no file"))
        assert "s3c" not in ran.output


def test_policy_file_that_is_pipe_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "policies.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="it is a pipe or a socket, not a file"):
        load_policies(pipe)
    assert CliRunner().invoke(app, ["check", str(pipe)]).exit_code == 1


def test_path_that_is_not_utf_8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.yaml"
    with pytest.raises(ConfigError) as caught:
        load_policies(os.fsdecode(path))
    assert "\\xff.yaml: cannot be read" in str(caught.value)
    str(caught.value).encode()
    Path(os.fsdecode(path)).write_text("version: 1\nrules: [{function: a, policy: nope}]\n")
    with pytest.raises(ConfigError, match=r"\\xff.yaml:2:"):
        load_policies(os.fsdecode(path))
    Path(os.fsdecode(path)).write_text("version: 1\npolicies: {a: {attempts: 2}}\n")
    book = load_policies(os.fsdecode(path))
    assert book.policy_set.policy("a").attempts == 2
    assert not book.reload()
    ran = command("show", "a::b", "--policies", os.fsdecode(path))
    assert ran.returncode == 0


def test_tables_hold_no_escapes_of_what_is_shown() -> None:
    from iii_resilience.cli.dlq_commands import _cell

    assert _cell("\x1b[2JORDER_LOST[red]\x9b31m") == "ORDER_LOST\\[red]"
    assert _cell(None) == "-"

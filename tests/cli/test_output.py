"""Standard output that goes away, is full, or was never there: for every command that prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fcgi_cli.output import Output, guarded, output_is_gone

from tests.cli.conftest import Answer
from tests.cli.test_status import STATUS

ADMIN = ["--admin", "{admin}"]
COMMANDS = [
    (["--help"], 0),
    (["--version"], 0),
    (["logs", "--help"], 0),
    (["logs", "--no-follow", "{log}"], 0),
    (["logs", "--no-follow", "-o", "json", "{log}"], 0),
    (["check", "--schema"], 0),
    (["check", "{good}"], 0),
    (["doctor"], 0),
    (["doctor", "-o", "json"], 0),
    (["version"], 0),
    (["completion", "bash"], 0),
    (["nginx-config"], 0),
    (["plugins"], 0),
    (["plugins", "show", "syslog"], 0),
    (["plugins", "list", "-o", "json", *ADMIN], 0),
    (["status", *ADMIN], 0),
    (["status", "-o", "json", *ADMIN], 0),
    (["set", "syslog.severity=debug", *ADMIN], 1),
    (["top", "-d", "0.05", *ADMIN], 0),
    (["top", "-d", "0.05", "-o", "json", *ADMIN], 0),
]
NAMES = [" ".join(words) for words, _ in COMMANDS]


def answer(line: bytes) -> bytes:
    change = {"web": {"syslog.severity": "no"}}
    said = change if json.loads(line)["ask"] == "change" else {**STATUS, "bounds": [1.0]}
    return json.dumps({"ok": True, "answer": said}).encode() + b"\n"


@pytest.fixture
def run(serve: Callable[[Answer], str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command with a descriptor as its standard output; with `before` done in its process first."""
    places = {"admin": serve(answer), "good": str(tmp_path / "good.yaml"), "log": str(tmp_path / "a.log")}
    Path(places["good"]).write_text("web: {listen: 'a:1', connect: 'a:1'}")
    Path(places["log"]).write_text("a line\n" * 10_000)

    def run(
        words: list[str], stdout: int | None, before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fcgi_cli", *(word.format(**places) for word in words)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=before,
        )

    return run


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(("words", "status"), COMMANDS, ids=NAMES)
def test_a_reader_that_has_gone_is_no_error(run: Run, words: list[str], status: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(words, writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize(("words", "status"), COMMANDS, ids=NAMES)
def test_a_full_disk_is_reported(run: Run, words: list[str], status: int) -> None:
    with open("/dev/full", "w") as full:
        done = run(words, full.fileno())
    assert (done.returncode, done.stderr) == (
        os.EX_IOERR,
        "fcgi-sctp: standard output: No space left on device\n",
    )


@pytest.mark.parametrize("words", [["version"], ["--help"], ["doctor"], ["status", *ADMIN]], ids=" ".join)
def test_no_standard_output_at_all(run: Run, words: list[str]) -> None:
    done = run(words, None, lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words", [["check", "/no/such"], ["web", "-c", "/no/such"], ["fly"], ["status", "--admin", "/no"]]
)
def test_no_standard_error(run: Run, words: list[str]) -> None:
    expected = run(words, subprocess.DEVNULL).returncode
    assert expected in (os.EX_CONFIG, os.EX_USAGE, os.EX_UNAVAILABLE)
    reader, writer = os.pipe()
    os.close(reader)
    done = run(words, subprocess.PIPE, lambda: os.dup2(writer, 2) and None)  # type: ignore[arg-type, return-value]
    os.close(writer)
    assert (done.returncode, done.stdout) == (expected, "")
    done = run(words, subprocess.PIPE, lambda: os.close(2))
    assert (done.returncode, done.stdout) == (expected, "")


def test_output_that_is_dropped_keeps_the_exit_status(run: Run) -> None:
    assert run(["plugins", "show", "nosuch"], subprocess.DEVNULL).returncode == 1


def test_ctrl_c(serve: Callable[[Answer], str]) -> None:
    """Ctrl-C ends a waiting command without a traceback."""
    silent = serve(lambda line: (os.kill(child.pid, signal.SIGINT), b"")[1])
    with subprocess.Popen(
        [sys.executable, "-m", "fcgi_cli", "status", "--admin", silent],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.communicate(timeout=60)[1] == b""
        assert child.returncode == 130


def test_a_descriptor_that_does_not_wait() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = Output(writer)
    data = b"x" * 300_000
    import threading

    read = bytearray()
    thread = threading.Thread(
        target=lambda: [read.extend(os.read(reader, 65536)) for _ in iter(lambda: len(read) < len(data), False)]
    )
    thread.start()
    rest = memoryview(data)
    while rest:
        rest = rest[output.write(rest) :]
    thread.join(10)
    assert bytes(read) == data
    os.close(writer)
    os.close(reader)
    assert output.write(b"x") == 1
    assert output.problem == "standard output: Bad file descriptor"


def test_outside_of_a_command_nothing_is_gone() -> None:
    assert not output_is_gone()
    with guarded():
        assert not output_is_gone()
    assert not output_is_gone()

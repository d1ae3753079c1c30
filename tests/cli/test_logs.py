"""`fcgi-sctp logs`, as it is typed: in a pipe, and on a terminal."""

from __future__ import annotations

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli import logs

from fcgi_core.plugin import FeedEntry

PROGRAM = "import sys\nfrom fcgi_cli.main import main\nsys.exit(main(['logs', *sys.argv[1:]]))\n"


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    logs.add_arguments(parser)
    return logs.run(parser.parse_args(arguments))


def entry(message: str, severity: int = 6, server_name: str = "shop.example", **more: Any) -> FeedEntry:
    return FeedEntry(1_700_000_000.0, severity, message, server_name, "cart", **more)


@contextmanager
def program(*arguments: str, out: int = subprocess.PIPE, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "", "TERM": "xterm-256color", **environment},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_the_past(feed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    feed.publish(*(entry(f"m{number}", number) for number in range(8)))
    assert run("--feed", feed.path, "--no-follow", "-n", "3", "--utc") == 0
    assert capsys.readouterr().out == (
        "2023-11-14T22:13:20.000Z notice  shop.example cart m5\n"
        "2023-11-14T22:13:20.000Z info    shop.example cart m6\n"
        "2023-11-14T22:13:20.000Z debug   shop.example cart m7\n"
    )


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ([], ["a", "b", "c \\x1b[31m"]),
        (["--level", "error"], ["b"]),
        (["--server-name", "blog.*", "--server-name", "x"], ["c \\x1b[31m"]),
        (["--request", "r-2"], ["b"]),
        (["--app", "cart", "-e", "A", "-i"], ["a"]),
        (["-e", "a|b", "-v"], ["c \\x1b[31m"]),
        (["--count", "2"], ["a", "b"]),
    ],
)
def test_filters_select_lines(
    feed: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], messages: list[str]
) -> None:
    feed.publish(
        entry("a", request="r-1"), entry("b", 3, request="r-2"), entry("c \x1b[31m", server_name="blog.example")
    )
    assert run("--feed", feed.path, "--no-follow", "-o", "raw", *arguments) == 0
    assert capsys.readouterr().out.splitlines() == messages


def test_json(feed: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    feed.publish(entry("a\x1b", fields={"uri": "/"}))
    monkeypatch.setenv("FCGI_SCTP_FEED", feed.path)
    assert run("--no-follow", "-o", "json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["message"] == "a\x1b"
    assert json.loads(line)["fields"] == {"uri": "/"}


def test_lost_lines_are_reported(
    script: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"time": 0, "severity": 6, "message": "x"}
    script(*(({"next": 2}, [{"n": 1, **line}, {"lost": 7, "next": 9}, {"n": 9, **line}]) for _ in range(2)))
    path = str(tmp_path / "feed.sock")
    assert run("--feed", path, "--no-follow") == 0
    assert capsys.readouterr().out.splitlines()[1] == "-- 7 lines lost"
    assert run("--feed", path, "--no-follow", "-o", "raw") == 0
    captured = capsys.readouterr()
    assert captured.out == "x\nx\n"
    assert captured.err == "fcgi-sctp logs: 7 lines lost\n"


def test_nothing_that_comes_is_cut_as_the_past_is(
    script: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"n": n, "time": 0, "severity": 6, "message": f"m{n}"}).encode() + b"\n" for n in range(1, 10)]
    script(({"next": 5}, [b"".join(lines)]))  # all at once: the end of the past, and new lines
    words = ("-n", "2", "-e", "m", "-o", "raw", "--count", "7", "--timeout", "30")
    assert run("--feed", str(tmp_path / "feed.sock"), *words) == 0
    assert capsys.readouterr().out.split() == [f"m{number}" for number in range(3, 10)]


def test_exit_status(feed: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    feed.publish(entry("a"))
    assert run("--feed", feed.path, "--count", "1") == 0
    assert run("--feed", feed.path, "--count", "2", "--no-follow") == 1
    assert run("--feed", feed.path, "--count", "2", "--timeout", "0.01") == 1
    assert run("--feed", feed.path, "--timeout", "0.01") == 0
    assert run("--feed", str(tmp_path / "none.sock")) == 69
    assert "No such file or directory; is `fcgi-sctp web` running" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--level", "loud"], "'loud'"),
        (["--grep", "("], "invalid regular expression '('"),
        (["--tail", "-1"], "invalid number"),
        (["--count", "x"], "invalid number"),
        (["--timeout", "nan"], "invalid time"),
        (["--timeout", "x"], "invalid time"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    with pytest.raises(SystemExit):
        run(*arguments)
    assert complaint in capsys.readouterr().err


def test_a_pipe_gets_each_line_at_once(feed: Any) -> None:
    feed.publish(entry("one"))
    with program("--feed", feed.path, "-o", "raw") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        feed.publish(entry("two ä"))
        assert process.stdout.readline() == "two ä\n".encode()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_locale_that_cannot_write_a_character(feed: Any) -> None:
    feed.publish(entry("ä\N{SNOWMAN}"))
    with program("--feed", feed.path, "-o", "raw", "--no-follow", PYTHONIOENCODING="ascii") as process:
        assert process.communicate(timeout=10) == (b"\\xe4\\u2603\n", b"")


def test_a_pipe_whose_reader_has_gone_is_no_error(feed: Any) -> None:
    feed.publish(entry("one"))
    with program("--feed", feed.path, "-o", "raw") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        assert process.wait(10) == 0  # nothing has to come for it to notice
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_the_web_side_is_restarted(feed: Any) -> None:
    feed.publish(entry("one"))
    with program("--feed", feed.path, "-o", "raw") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"one\n"
        feed.stop()
        assert (
            process.stderr.readline() == b"fcgi-sctp logs: the web side closed the feed; waiting for it to come back\n"
        )
        feed.start()
        feed.publish(entry("two"))
        assert process.stdout.readline() == b"two\n"
        assert process.stderr.readline() == b"fcgi-sctp logs: the web side was restarted\n"


def on_terminal(*arguments: str, **environment: str) -> bytes:
    """What the program writes on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    try:
        with program(*arguments, out=theirs, **environment) as process:
            os.close(theirs)
            written = b""
            try:
                while data := os.read(ours, 65536):
                    written += data
            except OSError:
                pass  # EIO: how Linux says that the other end is closed
            assert process.wait(10) == 0
    finally:
        os.close(ours)
    return written


def test_a_terminal_gets_colours(feed: Any) -> None:
    feed.publish(entry("bad \x1b[2J", 3), entry("good", 6))
    written = on_terminal("--feed", feed.path, "--no-follow")
    assert b"\x1b[31merr" in written
    assert b"bad \\x1b[2J" in written
    assert b"\x1b[2J" not in written


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colours_gets_no_escape_sequences(feed: Any, environment: dict[str, str]) -> None:
    feed.publish(entry("text", 3))
    written = on_terminal("--feed", feed.path, "--no-follow", **environment)
    assert b"text" in written
    assert b"\x1b" not in written


def test_logs_starts_without_slow_imports(feed: Any) -> None:
    check = "import atexit, sys\natexit.register(lambda: print({'rich', 'pydantic', 'asyncio'} & set(sys.modules)))\n"
    result = subprocess.run(
        [sys.executable, "-c", check + PROGRAM, "--feed", feed.path, "--no-follow"],
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert result.stdout == b"set()\n"

"""Files, pipes and usage errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli.logs.events import Event, Line
from fcgi_cli.logs.files import FileSource, PipeSource
from fcgi_cli.main import main
from fcgi_syslog.formats import format_json, format_line

from tests.cli.sources import entry, lines
from tests.cli.terminal import PATIENCE

TRACE = 'no answer\nTraceback (most recent call last):\n  File "a.py", line 1\nValueError: x'


@pytest.mark.parametrize("form", [format_line, format_json])
def test_both_forms_of_the_syslog_plugin(tmp_path: Path, form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.log"
    path.write_text(form(entry(0)) + form(entry(1, TRACE)), encoding="utf-8")
    assert main(["logs", "--no-follow", "-o", "json", str(path)]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["time"], first["severity"], first["message"]) == (1_700_000_000.0, 4, "m0")
    assert (first["server_name"], first["application"], first["process"], first["request"]) == (
        *("shop.example", "cart", "7", "r1"),
    )
    assert second["message"] == TRACE


def test_any_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"plain \x1b[2J \xff\xfe\n{broken\n2023-99-99T00:00:00Z err a b [c] d\nC:\\new\r\nlast")
    assert main(["logs", "--no-follow", "-o", "raw", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "plain \\x1b[2J \\xff\\xfe",
        "{broken",
        "2023-99-99T00:00:00Z err a b [c] d",
        "C:\\new",
        "last",
    ]


def test_the_end_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fcgi_cli.logs import files

    monkeypatch.setattr(files, "RECEIVE", 16)
    path = tmp_path / "a.log"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    for tail in (0, 1, 7, 100, 200):
        expected = [f"line {number}" for number in range(max(0, 100 - tail), 100)]
        assert lines(FileSource(str(path), tail=tail, follow=False)) == expected
    path.write_text("a\nb\nc")
    assert lines(FileSource(str(path), tail=2, follow=False)) == ["b", "c"]


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\n")
    now = 1000.0
    source = FileSource(str(path), tail=None, clock=lambda: now)
    source.start()
    seen: list[Event] = []

    def look() -> list[str]:
        seen.clear()
        for _ in range(4):
            seen.extend(source.read())
        return [event.message if isinstance(event, Line) else "note" for event in seen]

    assert look() == ["one"]
    with path.open("a") as file:
        file.write("two\nthr")
    assert look() == ["two"]
    os.rename(path, tmp_path / "a.log.1")
    with (tmp_path / "a.log.1").open("a") as file:
        file.write("ee\n")
    assert look() == ["three"]
    assert source.waiting
    path.write_text("four\n")
    assert look() == ["four"]
    assert not source.waiting
    path.write_text("5\n")
    assert look() == ["note", "5"]
    source.close()


def test_a_folder_and_what_is_no_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", str(tmp_path)]) == os.EX_UNAVAILABLE
    assert capsys.readouterr().err == f"fcgi-sctp logs: {tmp_path}: is a directory; name the files in it\n"
    assert main(["logs", "--feed", str(tmp_path)]) == os.EX_UNAVAILABLE
    assert capsys.readouterr().err == f"fcgi-sctp logs: {tmp_path}: Connection refused; it is not a socket\n"
    strange = tmp_path / "\x1b]0;x\x07.log"
    assert main(["logs", str(strange), "--feed", f"{strange}2", f"{strange}.gz"]) == os.EX_UNAVAILABLE
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 3
    assert "\x1b" not in printed


def test_options_between_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        (tmp_path / f"{name}.log").write_text(f"{name}\n")
    a, b, c = (str(tmp_path / f"{name}.log") for name in "abc")
    for words in ([a, "--no-follow", b, "-o", "raw", c], [a, b, "--no-follow", "-o", "raw", "--", c]):
        assert main(["logs", *words]) == 0
        assert capsys.readouterr().out.split() == ["a", "b", "c"]
    for words in (["--fly", a], [a, "-n"], [a, "-o", "x", b]):
        with pytest.raises(SystemExit) as ended:
            main(["logs", *words])
        assert ended.value.code == os.EX_USAGE
        assert "usage: fcgi-sctp logs [-h]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["-n", "9" * 30],
        ["-n", "9" * 5000],
        ["-n", "-1"],
        ["--count", "1e3"],
        ["--timeout", "1e400"],
        ["--timeout", "nan"],
        ["--since", "9" * 400 + "d"],
        ["--since", "@1e400"],
        ["--since", "@nan"],
        ["--until", "0000-01-01"],
        ["--since", "10000-01-01"],
        ["-e", "("],
        ["-e", "x{99999999999999999999}"],
        ["-w", "a"],
        ["-w", "a=~("],
        ["-t", "{nosuch}"],
        ["-t", "{message:9999999}"],
        ["-t", "{"],
        ["-l", "loud"],
        ["--until-match", "["],
        ["--highlight", "\x1b["],
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_a_usage_error_is_one_line(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text("a\n")
    try:
        status = main(["logs", "--no-follow", str(tmp_path / "a.log"), *words])
    except SystemExit as ended:
        status = ended.code  # type: ignore[assignment]  # of the parser
    printed = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("usage:", " "))]
    assert status == os.EX_USAGE
    assert len(printed) == 1
    assert len(printed[0]) < 300
    assert "\x1b" not in printed[0]


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", str(tmp_path / "none.log")]) == os.EX_UNAVAILABLE
    assert "none.log: No such file or directory" in capsys.readouterr().err


def test_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, format_json(entry(1)).encode() + b'{"lost": 3}\nrest')
    os.close(writing)
    assert lines(PipeSource(f"/dev/fd/{reading}")) == ["m1", "Lost", "rest"]
    os.close(reading)


def test_errors_show_names_of_files_that_are_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--no-follow", f"{tmp_path}/\x1b[2J"]) != 0
    assert "\\x1b[2J" in capsys.readouterr().err


# ---- another terminal


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_in_tmux(feed: Any, tmp_path: Path) -> None:
    """A real terminal, which wraps lines again when it is resized, with a shell that stops and resumes its jobs."""
    feed.publish(*(entry(number, f"line {number}.") for number in range(50)))

    def tmux(*words: str) -> str:
        command = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    def until(text: str, *, gone: str = "\0") -> str:
        deadline = time.monotonic() + PATIENCE
        while True:
            screen = tmux("capture-pane", "-p", "-S", "-1000")
            if text in screen and gone not in screen:
                return screen
            assert time.monotonic() < deadline, screen

    tmux("new-session", "-d", "-x", "100", "-y", "20", "exec env PS1='$ ' bash --norc --noprofile -i")
    try:
        logs = f"{sys.executable} -m fcgi_cli logs --feed {feed.path} -n 50"
        tmux("send-keys", logs, "Enter")
        until("line 49.")
        screen = until("50 warning")
        assert [line.split()[-1] for line in screen.splitlines() if "line " in line] == [f"{n}." for n in range(50)]
        for columns in ("40", "90", "30", "100"):
            tmux("resize-window", "-x", columns, "-y", "20")
            feed.publish(entry(0, f"at {columns}"))
            screen = until(f"at {columns}")
        screen = until("? help")
        assert screen.count("live │") == 1  # no remains of narrower ones
        tmux("send-keys", "C-z")
        until("Stopped", gone="? help")
        feed.publish(entry(0, "meanwhile"))
        tmux("send-keys", "fg", "Enter")
        until("meanwhile")
        until("? help")
        tmux("send-keys", "q")
        until("meanwhile", gone="? help")
        tmux("send-keys", "echo status $?", "Enter")
        until("status 0")
    finally:
        tmux("kill-server")

"""Files, pipes and several sources at once; times as people write them; what waits to be drawn."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli.logs.backlog import MOST_WAITING, SAMPLE, Backlog
from fcgi_cli.logs.events import Event, Line, Lost, Note, Skipped, SourceError
from fcgi_cli.logs.files import PART, FileSource, PipeSource
from fcgi_cli.logs.history import History
from fcgi_cli.logs.merge import WINDOW, Merge
from fcgi_cli.logs.moments import moment
from fcgi_cli.logs.past import Past
from fcgi_cli.logs.prompt import Prompt
from fcgi_cli.logs.pump import Pump
from fcgi_cli.logs.source import LONGEST_LINE, RECEIVE, Source
from fcgi_cli.logs.status import short
from fcgi_cli.main import main
from fcgi_syslog.formats import format_json, format_line

from fcgi_core.plugin import FeedEntry
from tests.cli.terminal import PATIENCE

TRACE = 'no answer\nTraceback (most recent call last):\n  File "a.py", line 1\nValueError: x'


def entry(number: int, message: str = "", **more: Any) -> FeedEntry:
    return FeedEntry(
        1_700_000_000.0 + number, 4, message or f"m{number}", "shop.example", "cart", 1, "7", request="r1", **more
    )


def lines(source: Source) -> list[str]:
    """All that comes until the source has ended."""
    pump = Pump([source])
    pump.start()
    events: list[Event] = []
    while not pump.ended:
        events += pump.wait()
    pump.close()
    return [event.message if isinstance(event, Line) else type(event).__name__ for event in events]


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


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True, timeout=60).stdout


COMPRESSIONS = [gzip.compress, bz2.compress, lzma.compress, zstd]
TEXT = "".join(f"line {number} {number * 12345678}\n" for number in range(50_000)).encode()


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("name", ["a.log.1.gz", "a.log", "a.xz"])
def test_a_compressed_file_is_known_by_its_content(
    tmp_path: Path, compress: Callable[[bytes], bytes], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(compress(TEXT))
    assert lines(FileSource(str(path), tail=None)) == TEXT.decode().splitlines()
    path.write_bytes(compress(b"one\ntwo\n") + compress(b"three\n"))
    assert lines(FileSource(str(path), tail=None)) == ["one", "two", "three"]
    path.write_bytes(b"no such thing\n")
    assert lines(FileSource(str(path), tail=None, follow=False)) == ["no such thing"]


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("damaged", ["cut", "changed", "bare"])
def test_a_damaged_file_gives_what_can_be_read(
    tmp_path: Path, compress: Callable[[bytes], bytes], damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(compress(TEXT))
    if damaged == "cut":
        del data[-len(data) // 4 :]
    elif damaged == "changed":
        middle = len(data) // 2
        data[middle : middle + 200] = bytes(byte ^ 0x55 for byte in data[middle : middle + 200])
    else:
        del data[8:]
    (tmp_path / "bad.log").write_bytes(data)
    (tmp_path / "good.log").write_text("".join(f"good {number}\n" for number in range(50)))
    paths = [str(tmp_path / name) for name in ("good.log", "bad.log", "none.log")]
    assert main(["logs", "--no-follow", "-n", "100000", "-o", "raw", *paths]) == 1
    captured = capsys.readouterr()
    assert [line for line in captured.out.splitlines() if "good" in line] == [f"good {number}" for number in range(50)]
    assert f"fcgi-sctp logs: {paths[2]}: No such file or directory\n" in captured.err
    bad, _ = sorted(captured.err.splitlines())
    assert bad.startswith(f"fcgi-sctp logs: {paths[1]}: "), "one line"
    assert main(["logs", "--no-follow", "-n", "100000", "-o", "raw", paths[1]]) == os.EX_UNAVAILABLE
    captured = capsys.readouterr()
    assert captured.err == f"{bad}\n"
    if damaged == "cut" and compress is not bz2.compress:  # which is one block
        assert captured.out.startswith("line 0 0\nline 1 12345678\n")


def test_zstd_without_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.log").write_bytes(zstd(b"one\n"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="cannot be unpacked: the program zstd is not installed"):
        lines(FileSource(str(tmp_path / "a.log"), tail=None))


def test_a_viewer_that_ends_early_leaves_no_program(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(zstd(TEXT * 20))
    source = FileSource(str(tmp_path / "a.log"), tail=None)
    source.start()
    assert source.read()
    source.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=["gz", "bz2", "xz", "zst"])
def test_what_unpacks_to_much_costs_little(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(compress(b"x" * (200 << 20)))
    assert path.stat().st_size < 1 << 20
    viewer = [sys.executable, "-m", "fcgi_cli", "logs", "--no-follow", "-o", "raw"]
    many = f"import resource, subprocess, sys; subprocess.run({[*viewer, str(path), str(path)]}, stdout=-3)"
    tell = "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", f"{many}; {tell}"], capture_output=True, text=True, timeout=110)
    assert "Traceback" not in done.stderr
    assert int(done.stdout) < 200 << 10, "KiB"


def test_a_line_beyond_all_bounds_is_shown_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * (LONGEST_LINE + RECEIVE) + b"y\nafter\n")
    *parts, last, after = lines(FileSource(str(path), tail=None, follow=False))
    assert {len(part) for part in parts[:16]} == {PART}
    assert "".join([*parts, last]) == "x" * (LONGEST_LINE + RECEIVE) + "y"
    assert after == "after"


def test_of_long_lines_fewer_are_kept() -> None:
    past = Past(10)
    for number in range(10):
        past.add(Line(number, 1.0, 4, str(number) * (4 << 20), past=True))
    note, *kept = past.events()
    assert isinstance(note, Note)
    assert note.text == "the latest lines are long: showing 3 of 10"
    assert [event.number for event in kept if isinstance(event, Line)] == [7, 8, 9]
    past.add(Line(10, 1.0, 4, "x" * (40 << 20), past=True))
    assert len(past.events()) == 2, "the latest is always there"


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


def test_a_line_of_ten_mebibytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * (10 << 20) + b"\nafter\n")
    assert main(["logs", "--no-follow", "-o", "raw", str(path)]) == 0
    assert list(map(len, capsys.readouterr().out.splitlines())) == [10 << 20, 5]


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


@pytest.mark.parametrize(
    "moment",
    [
        *("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00-12:00", "9999-12-31T23:59:59-14:00"),
        *("9999-12-31T23:59:59+14:00", "1582-10-14T00:00:00Z", "0000-00-00T00:00:00Z", "2026-11-27T00:00:00+99:99"),
    ],
)
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Anchorage", "UTC"])
@pytest.mark.parametrize("words", [["--utc"], ["-o", "json"], ["-o", "raw"], ["-t", "{time}"], []])
def test_times_at_the_ends_of_the_calendar(
    tmp_path: Path,
    moment: str,
    zone: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        (tmp_path / "a.log").write_text(
            f"{moment} err shop.example cart [r1] text\n"
            + json.dumps({"time": moment, "severity": 3, "message": "text"})
            + "\n"
            + json.dumps({"time": moment[:19], "severity": 3, "message": "text"})
            + "\n"
            + json.dumps({"time": "9999-12-31T23:59:59.999999", "severity": 3, "message": "text"})
            + "\n"
        )
        assert main(["logs", "--no-follow", str(tmp_path / "a.log"), *words]) == 0
        out = capsys.readouterr().out
        assert all(
            re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T", line) for line in out.splitlines() if words in ([], ["--utc"])
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_time_that_is_impossible_is_that_of_the_line_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.log").write_text(
        "2026-01-31T00:00:00Z err shop.example cart [r1] one\n"
        "0001-01-01T00:00:00+14:00 err shop.example cart [r1] two\n"
        '{"time": 1769817600000, "severity": 3, "message": "milliseconds"}\n'
        '{"time": "9999-12-31T23:59:59-14:00", "severity": 3, "message": "four"}\n'
        '{"time": "5200-06-01T00:00:00Z", "severity": 3, "message": "five"}\n'
    )
    assert main(["logs", "--no-follow", "--utc", "-t", "{time}", str(tmp_path / "a.log")]) == 0
    assert [line[:10] for line in capsys.readouterr().out.splitlines()] == ["2026-01-31"] * 4 + ["5200-06-01"]


@pytest.mark.parametrize("moment", [1e11 - 1, -1e11 + 1, 253402300800, -62135596801, 1e300, float("nan"), -0.0])
def test_times_that_are_numbers(tmp_path: Path, moment: float, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text(json.dumps({"time": moment, "severity": 3, "message": "text"}) + "\n")
    for words in ([], ["--utc"], ["-o", "json"], ["-t", "{time} {message}"]):
        assert main(["logs", "--no-follow", str(tmp_path / "a.log"), *words]) == 0
        assert "text" in capsys.readouterr().out


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", str(tmp_path / "none.log")]) == os.EX_UNAVAILABLE
    assert "none.log: No such file or directory" in capsys.readouterr().err


def test_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, format_json(entry(1)).encode() + b'{"lost": 3}\nrest')
    os.close(writing)
    assert lines(PipeSource(f"/dev/fd/{reading}")) == ["m1", "Lost", "rest"]
    os.close(reading)


def test_viewers_into_viewers(feed: Any) -> None:
    feed.publish(entry(1), entry(2, "two\nlines"))
    logs = [sys.executable, "-m", "fcgi_cli", "logs"]
    first = subprocess.Popen([*logs, "--feed", feed.path, "--no-follow", "-o", "json"], stdout=subprocess.PIPE)
    second = subprocess.run([*logs, "paris=-", "-o", "json"], stdin=first.stdout, capture_output=True, check=True)
    assert first.stdout is not None
    first.stdout.close()
    first.wait(PATIENCE)
    printed = [json.loads(line) for line in second.stdout.splitlines()]
    assert [(one["message"], one["source"]) for one in printed] == [("m1", "paris"), ("two\nlines", "paris")]


def test_several_are_merged_by_time(feed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feed.publish(*map(entry, (1, 4, 7)))
    for name, numbers in (("a", (2, 5, 8)), ("b", (3, 6, 9))):
        (tmp_path / f"{name}.log").write_text("".join(format_line(entry(number)) for number in numbers))
    words = ["--feed", feed.path, str(tmp_path / "a.log"), f"rome={tmp_path}/b.log", "--no-follow"]
    assert main(["logs", *words, "--template", "{source} {message}"]) == 0
    assert capsys.readouterr().out.split() == [
        *("feed", "m1", "a.log", "m2", "rome", "m3", "feed", "m4", "a.log", "m5"),
        *("rome", "m6", "feed", "m7", "a.log", "m8", "rome", "m9"),
    ]
    assert main(["logs", *words, "-n", "2", "--template", "{message}"]) == 0
    assert capsys.readouterr().out.split() == ["m8", "m9"]
    assert main(["logs", *words, "--since", "@1700000006", "--until", "@1700000008", "-o", "raw"]) == 0
    assert capsys.readouterr().out.split() == ["m6", "m7", "m8"]


def test_lines_of_the_present_wait_for_earlier_ones() -> None:
    now = 0.0
    one, two = Source(), Source()
    one.past = two.past = False
    merge = Merge([one, two], clock=lambda: now)
    merge.add(one, [Line(1, 5.0, 6, "later"), Lost(2)])
    now = WINDOW / 2
    merge.add(two, [Line(1, 4.0, 6, "earlier")])
    assert merge.take() == []
    assert merge.due == WINDOW
    now = WINDOW
    assert [type(event).__name__ for event in merge.take()] == ["Line", "Line", "Lost"]
    assert merge.due is None


def test_of_the_past_the_latest_are_kept_and_of_what_comes_all() -> None:
    came = (1, 4, 6, 7)  # from one source, while another is behind
    for most, kept in ((2, [1, 4, 5, 6, 7, 8]), (0, [1, 4, 6, 7]), (99, [*range(9)])):
        past = Past(most)
        for number in range(9):
            past.add(Line(number, 0.0, 6, "", past=number not in came))
        assert [event.number for event in past.events() if isinstance(event, Line)] == kept
    past = Past(1)
    gone: list[Event] = [Lost(1, past=True), Lost(2), Note("x"), Lost(3, past=True)]
    for event in gone:
        past.add(event)
    assert past.events() == gone[1:]


def test_of_a_file_is_past_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"lost": 2}\none\n')
    source = FileSource(str(path), tail=None)
    source.start()
    events = source.read()
    assert source.read() == []
    with path.open("a") as file:
        file.write('two\n{"lost": 3}\n')
    events += source.read()
    source.close()
    assert [isinstance(event, Line | Lost) and event.past for event in events] == [True, True, False, False]


def test_a_last_line_without_an_end_is_past_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text("one\ntwo\nthree")
    assert main(["logs", "--no-follow", "-n", "2", "-e", "e|o", "-o", "raw", str(tmp_path / "a.log")]) == 0
    assert capsys.readouterr().out.split() == ["two", "three"]


def test_the_last_matching_lines(feed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    feed.publish(*(entry(number) for number in range(100)))
    assert main(["logs", "--feed", feed.path, "--no-follow", "-e", "[05]$", "-n", "3", "-o", "raw"]) == 0
    assert capsys.readouterr().out.split() == ["m85", "m90", "m95"]


def test_wrong_times_and_templates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--since", "soon"]) == os.EX_USAGE
    assert "invalid time 'soon': use 10m (ago), 12:30" in capsys.readouterr().err
    assert main(["logs", "--template", "{x}"]) == os.EX_USAGE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", "2026-07-01T11:50:00"),
        ("1h30m", "2026-07-01T10:30:00"),
        ("2d ago", "2026-06-29T12:00:00"),
        ("now", "2026-07-01T12:00:00"),
        ("today", "2026-07-01T00:00:00"),
        ("Yesterday", "2026-06-30T00:00:00"),
        ("08:15", "2026-07-01T08:15:00"),
        ("2026-01-02", "2026-01-02T00:00:00"),
        ("2026-01-02 03:04:05", "2026-01-02T03:04:05"),
        ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05"),
        ("@0", "1970-01-01T00:00:00"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    now = datetime.fromisoformat("2026-07-01T12:00:00+00:00").timestamp()
    assert moment(text, now, utc=True) == datetime.fromisoformat(expected + "+00:00").timestamp()


# ---- what waits


def texts(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Line)]


def many(count: int, begin: int = 0) -> Iterator[Line]:
    return (Line(number, 0.0, 6, str(number)) for number in range(begin, begin + count))


def test_what_happened_before_the_end_of_a_pause_is_drawn_whole() -> None:
    backlog = Backlog()
    for line in many(10):
        backlog.add(line)
    backlog.pause_or_resume(0.5)
    assert backlog.take(whole=False) == []
    backlog.pause_or_resume(1.0)
    for line in many(3 * MOST_WAITING, 10):
        backlog.add(line)
    drawn: list[Event] = []
    while backlog.whole:
        drawn += backlog.take(whole=False)
    assert texts(drawn) == [str(number) for number in range(3 * MOST_WAITING + 10)]
    backlog.add(Line(1, 1.1, 6, "later"))
    assert not backlog.whole


def test_a_flood_is_thinned_to_the_worst() -> None:
    backlog = Backlog()
    for line in many(MOST_WAITING + 100):
        if line.number == 17:
            line.severity = 2
        backlog.add(line)
    backlog.add(Lost(5))
    backlog.add(Note("said"))
    events = backlog.take(whole=False)
    assert events[:2] == [Skipped(MOST_WAITING + 100 - SAMPLE), Lost(5)]
    assert texts(events)[0] == "17"
    assert len(texts(events)) == SAMPLE
    assert events[-1] == Note("said")
    assert backlog.skipped == MOST_WAITING + 100 - SAMPLE


def test_history_is_bounded() -> None:
    history = History(most_lines=5, most_characters=1000)
    for line in many(10):
        history.add(line)
    assert len(history) == 5
    found, count = history.matching(lambda line: line.number % 2 == 1, 1)
    assert (texts(list(found)), count) == (["9"], 3)
    history.add(Line(10, 0.0, 6, "x" * 2000))
    assert len(history) == 0
    assert history.latest(lambda line: True) is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9999"), (12_345, "12.3k"), (999_999, "1000k"), (1.5e6, "1.5M"), (2e9, "2G")]
)
def test_short_counts(count: float, text: str) -> None:
    assert short(count) == text


def test_a_prompt_is_harmless() -> None:
    prompt = Prompt("host:", lambda text: f"no {text}", ["\x1b]0;x\x07.example\u202e"])
    prompt.key("\t")
    before, _ = prompt.show(80)
    assert before == "host: \\x1b]0;x\\x07.example\\u202e"
    prompt.key("\n")
    assert prompt.show(80)[1] == "  (no \\x1b]0;x\\x07.example\\u202e)"


def test_a_prompt() -> None:
    answers: list[str] = []
    prompt = Prompt("host:", lambda text: answers.append(text) or "", ["blog", "book", "shop"])  # type: ignore[func-returns-value]
    for key in ("b", "\t", "\t", "\t", "\x7f"):
        assert prompt.key(key)
    assert prompt.show(40) == ("host: blo", "")
    assert prompt.show(8)[0] == "host: …"
    assert not prompt.key("\n")
    assert answers == ["blo"]
    assert not prompt.key("esc")
    assert prompt.key("\x15")
    assert not prompt.key("\x7f")


def test_a_prompt_shows_names_that_are_harmless() -> None:
    """Tab goes through virtual hosts, and applications say what those are called."""
    answers: list[str] = []
    prompt = Prompt("host:", lambda text: answers.append(text) or "no \x1b such", ["\x1b]0;owned\x07\u202e"])  # type: ignore[func-returns-value]
    assert prompt.key("\t")
    assert prompt.show(80) == ("host: \\x1b]0;owned\\x07\\u202e", "")
    assert "\x1b" not in prompt.show(12)[0]
    assert prompt.key("\n")
    assert answers == ["\x1b]0;owned\x07\u202e"]
    assert prompt.show(80)[1] == "  (no \\x1b such)"


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

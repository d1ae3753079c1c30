"""Several sources at once, merged by time; what counts as the past."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli.logs.events import Event, Line, Lost, Note
from fcgi_cli.logs.files import FileSource
from fcgi_cli.logs.merge import WINDOW, Merge
from fcgi_cli.logs.past import Past
from fcgi_cli.logs.source import Source
from fcgi_cli.main import main
from fcgi_syslog.formats import format_line

from tests.cli.sources import entry
from tests.cli.terminal import PATIENCE


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

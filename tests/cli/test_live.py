"""Tests the viewer on a terminal, used as a person uses it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.plugin import FeedEntry
from tests.cli.terminal import Terminal

TRACEBACK = 'no answer\nTraceback (most recent call last):\n  File "cart.py", line 7, in pay\nValueError: nothing'


def entry(message: str, severity: int = 6, server_name: str = "shop.example", **more: Any) -> FeedEntry:
    return FeedEntry(1_700_000_000.0, severity, message, server_name, "cart", **more)


def viewer(feed: Any, *arguments: str, **options: Any) -> Terminal:
    return Terminal("logs", "--feed", feed.path, *arguments, **options)


def test_lines_scroll_and_the_status_line_stays(feed: Any) -> None:
    feed.publish(*(entry(f"line {number}.") for number in range(100)), entry("bad", 3))
    with viewer(feed, "-n", "101", "--utc") as terminal:
        terminal.shows("bad")
        lines = [line for line in terminal.lines if "line " in line]
        assert [line.split()[-1] for line in lines] == [f"{number}." for number in range(100)]
        assert lines[0] == "22:13:20.000 info    shop.example cart line 0."
        terminal.status_shows("live │ ")
        terminal.status_shows("/s │ 1 err  100 info")
        assert "? help" in terminal.status
        assert terminal.colour("err ") == "red"
        assert terminal.screen.cursor.hidden
        terminal.press("q")
        assert terminal.end() == 0
        assert not terminal.screen.cursor.hidden
        assert "? help" not in "".join(terminal.lines)
        assert b"\x1b[?1049h" not in terminal.written  # no alternate screen


def test_the_terminal_is_left_as_it_was(feed: Any) -> None:
    for keys, status in (("q", 0), ("\x03", 130)):
        with viewer(feed) as terminal:
            before = terminal.process.getecho()
            terminal.status_shows("live")
            assert before
            assert not terminal.process.getecho()
            terminal.press(keys)
            terminal.until(lambda terminal: terminal.process.getecho())
            assert terminal.end() == status
    with viewer(feed) as terminal:
        terminal.status_shows("live")
        terminal.signal(signal.SIGTERM)
        terminal.until(lambda terminal: terminal.process.getecho())
        assert terminal.end() == 128 + signal.SIGTERM


def test_the_terminal_is_closed(feed: Any) -> None:
    with viewer(feed) as terminal:
        terminal.status_shows("live")
        pid = terminal.process.pid
        terminal.process.close(force=False)  # SIGHUP, as when a window is closed
        assert not terminal.process.isalive()
        assert not Path(f"/proc/{pid}/exe").exists()


def test_lines_of_a_pause_are_drawn_after_it(feed: Any) -> None:
    with viewer(feed) as terminal:
        terminal.status_shows("live")
        terminal.press("p")
        terminal.status_shows("PAUSED")
        feed.publish(*(entry(f"line {number}.") for number in range(9000)))
        terminal.press("m")  # it answers meanwhile
        terminal.shows("mark 1")
        assert not any("line " in line for line in terminal.lines)
        terminal.press("p")
        terminal.shows("line 8999.")
        lines = [line.split()[-1] for line in terminal.lines if "line " in line]
        assert lines == [f"{number}." for number in range(9000)]


def test_lines_that_the_feed_drops_in_a_pause_are_reported(feed: Any) -> None:
    with viewer(feed) as terminal:
        terminal.status_shows("live")
        terminal.press("p")
        terminal.status_shows("PAUSED")
        for begin in range(0, 40_000, 1000):
            feed.publish(*(entry(f"line {number}.") for number in range(begin, begin + 1000)))
        terminal.press("p")
        terminal.shows("line 39999.")
        text = "\n".join(terminal.lines)
        lost = sum(map(int, re.findall(r"^-- (\d+) lines? lost", text, re.MULTILINE)))
        assert lost > 0
        assert len(re.findall(r"cart line \d+\.$", text, re.MULTILINE)) + lost == 40_000


def test_levels(feed: Any) -> None:
    with viewer(feed) as terminal:
        terminal.status_shows("live")
        terminal.press("---")
        terminal.shows("-- warning and worse")
        terminal.status_shows("≥warning")
        feed.publish(entry("hidden"), entry("seen", 4))
        terminal.shows("seen")
        terminal.press("+++")
        terminal.shows("-- all severities")
        feed.publish(entry("fine"))
        terminal.shows("fine")
        assert not any("hidden" in line for line in terminal.lines)
        terminal.press("b")
        terminal.shows("hidden")


def test_search(feed: Any) -> None:
    feed.publish(*(entry(f"item {number}") for number in range(30)))
    with viewer(feed, "-n", "30") as terminal:
        terminal.shows("item 29")
        terminal.press("/(\n")
        terminal.status_shows("missing ), unterminated")
        terminal.press("\x15item 2[67]\n")
        terminal.shows("2 of the latest 30 lines match /item 2[67]/:")
        terminal.status_shows("/item 2[67]/")
        assert [line for line in terminal.lines if "item 26" in line][1:]
        feed.publish(entry("another ITEM 26"))
        terminal.shows("another ITEM 26")
        row = next(row for row in range(24) if "another" in terminal.screen.display[row])
        column = terminal.screen.display[row].find("ITEM 26")
        assert terminal.screen.buffer[row][column].reverse
        assert not terminal.screen.buffer[row][column - 2].reverse
        terminal.press("/\n")
        terminal.until(lambda terminal: "/item" not in terminal.status)


def test_hosts(feed: Any) -> None:
    feed.publish(entry("one"), entry("two", server_name="blog.example"))
    with viewer(feed) as terminal:
        terminal.shows("two")
        assert terminal.colour("shop.example") != terminal.colour("blog.example")
        terminal.press("hbl\t")
        terminal.status_shows("host: blog.example")
        terminal.press("\n")
        terminal.shows("-- only blog.example")
        feed.publish(entry("three"), entry("four", server_name="blog.example"))
        terminal.shows("four")
        terminal.press("h\n")
        terminal.shows("-- all hosts")
        feed.publish(entry("five"))
        terminal.shows("five")
        assert not any("three" in line for line in terminal.lines)


def test_the_request_of_the_last_line(feed: Any) -> None:
    feed.publish(entry("begin", request="aaaa1"), entry("other", request="bbbb2"), entry("end", request="aaaa1"))
    with viewer(feed) as terminal:
        terminal.shows("end")
        terminal.press("r")
        terminal.shows("2 of the latest 3 lines belong to request aaaa1:")
        terminal.status_shows("request aaaa1")
        feed.publish(entry("hidden", request="bbbb2"), entry("late", request="aaaa1"))
        terminal.shows("late")
        terminal.press("r")
        terminal.shows("-- all requests")
        assert not any("hidden" in line for line in terminal.lines)


def test_folding(feed: Any) -> None:
    feed.publish(entry(TRACEBACK, 3))
    with viewer(feed, "--fold") as terminal:
        terminal.shows("no answer ⋯ 3 more lines: ValueError: nothing")
        assert not any("cart.py" in line for line in terminal.lines)
        terminal.press("f")
        terminal.shows('    File "cart.py", line 7, in pay')


def test_marks_and_help(feed: Any) -> None:
    with viewer(feed) as terminal:
        terminal.status_shows("live")
        terminal.press("m\n?")
        terminal.shows("── mark 1 ·")
        terminal.shows("── mark 2 ·")
        terminal.shows("pause, or go on")
        terminal.press("-x")
        terminal.shows("-- filters and highlights as on the command line")


def test_resizing(feed: Any) -> None:
    feed.publish(*(entry("x" * 150) for _ in range(30)))
    with viewer(feed, "-n", "30") as terminal:
        terminal.status_shows("30 info")
        for columns, rows in ((40, 10), (200, 50), (12, 3), (2, 1), (1, 1), (80, 24)):
            terminal.resize(columns, rows)
            feed.publish(entry(f"now {columns}x{rows}"))
            if columns > 2:
                # the viewer's answer: what pyte itself cuts off the old line is as wide as the terminal
                terminal.until(
                    lambda terminal, columns=columns: (
                        terminal.status.startswith("live") and len(terminal.status) < columns
                    )
                )
        terminal.shows("now 80x24")
        terminal.status_shows("? help")


def test_a_narrow_terminal_has_fewer_columns(feed: Any) -> None:
    feed.publish(entry("text", request="abc"))
    for columns, line in ((70, "shop.example abc text"), (50, "info    shop.example text"), (30, "info    text")):
        with viewer(feed, columns=columns) as terminal:
            terminal.until(lambda terminal, line=line: any(text.endswith(line) for text in terminal.lines))


def test_the_web_side_is_restarted(feed: Any) -> None:
    feed.publish(entry("one"))
    with viewer(feed) as terminal:
        terminal.shows("one")
        feed.stop()
        terminal.shows("the web side closed the feed; waiting for it to come back")
        terminal.status_shows("waiting")
        feed.start()
        feed.publish(entry("two"))
        terminal.shows("two")
        terminal.shows("the web side was restarted")
        terminal.status_shows("live")


def test_the_viewer_says_live_only_after_the_past(tmp_path: Path) -> None:
    """A line published after the viewer says `live` is shown; before the greeting it might count as past."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "feed.sock"))
        listening.listen()  # connected to, and not accepted yet: as when the web side is busy
        with Terminal("logs", "--feed", str(tmp_path / "feed.sock"), "-n", "1") as terminal:
            terminal.status_shows("catching up")
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b'{"feed": "fcgi-sctp", "version": 1, "instance": "x", "first": 1, "next": 3}\n')
                assert b"live" not in terminal.written
                assert connection.recv(1000) == b'{"since": 2}\n'
                connection.sendall(line(2))
                terminal.shows("line 2.")
                terminal.status_shows("live")


def test_new_lines_in_the_read_that_ends_the_past_are_all_shown(script: Callable[..., Any], tmp_path: Path) -> None:
    script(({"next": 5}, [b"".join(map(line, range(1, 101)))]))  # all at once
    with Terminal("logs", "--feed", str(tmp_path / "feed.sock"), "-n", "2", "-e", "line") as terminal:
        terminal.shows("line 100.")
        numbers = [text.split()[-1] for text in terminal.lines if "line " in text]
        assert numbers == [f"{number}." for number in range(3, 101)]


def line(number: int) -> bytes:
    return json.dumps({"n": number, "time": 0, "severity": 6, "message": f"line {number}."}).encode() + b"\n"


def test_a_flood_is_sampled_and_the_gap_reported(feed: Any) -> None:
    with viewer(feed) as terminal:
        terminal.status_shows("live")
        for begin in range(0, 40_000, 1000):
            feed.publish(*(entry(f"line {number}") for number in range(begin, begin + 1000)))
        feed.publish(entry("the last"))
        terminal.press("m")  # it answers meanwhile
        terminal.shows("mark 1")
        terminal.shows("the last")
        terminal.status_shows("not drawn")
        text = "\n".join(terminal.lines)
        drawn = len(re.findall(r"cart line \d+$", text, re.MULTILINE))
        assert drawn < 15_000
        skipped, lost = (
            sum(int(count.replace(",", "")) for count in re.findall(rf"^-- ([\d,]+) lines? {what}", text, re.MULTILINE))
            for what in ("not drawn", "lost")  # "1 line lost" too: the ring may have been short of a single one
        )
        assert skipped > 0
        assert drawn + skipped + lost == 40_000  # every one of them is accounted for
        assert memory(terminal.process.pid) < 200 << 20


def memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_control_sequences_are_shown_and_not_executed(feed: Any) -> None:
    harm = (
        entry("\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08 \u202eevil\u2066 \ud800", server_name="\x1b[5mhost\u202e"),
        entry("x" * 1_000_000),
        entry("[red]not markup[/red]"),
    )
    with viewer(feed) as terminal:
        terminal.status_shows("live")
        for number, one in enumerate(harm):
            feed.publish(one)
            terminal.status_shows(f"{number + 1} info")
        terminal.shows("[red]not markup[/red]")
        terminal.shows("\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\r\\x08 \\u202eevil\\u2066 \\ud800")
        terminal.shows("1000000 characters in all")
        for bad in ("\x1b]0", "\x1b[2J", "\x1b[5m", "\u202e", "\u2066", "\x07", "\x9b"):
            assert bad.encode() not in terminal.written
        assert len(terminal.written) < 100_000


def test_without_colour(feed: Any) -> None:
    feed.publish(entry("text", 3))
    with viewer(feed, NO_COLOR="1") as terminal:
        terminal.shows("text")
        terminal.status_shows("1 err")
        assert terminal.colour("err ") == "default"
        assert b"m" not in terminal.written.partition(b"\x1b[")[2][:1]


def test_goals(feed: Any) -> None:
    with viewer(feed, "--until-match", "rea.y", "--timeout", "30") as terminal:
        terminal.status_shows("live")
        feed.publish(entry("ready"))
        assert terminal.end() == 0
        assert any("ready" in line for line in terminal.lines)
    with viewer(feed, "--until-match", "never", "--timeout", "0.1") as terminal:
        assert terminal.end() == 1


@pytest.mark.parametrize("arguments", [["--template", "{host:>14}|{message}"]])
def test_a_template(feed: Any, arguments: list[str]) -> None:
    feed.publish(entry("text\x1b"))
    with viewer(feed, *arguments) as terminal:
        terminal.shows("  shop.example|text\\x1b")

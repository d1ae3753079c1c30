"""The operator's log: each record is one harmless line, and a flood of one kind is counted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.common.operator_log import AT_ONCE, INDENT, MAX_FRAMES, MAX_LINE, WINDOW, LimitedLog, LineFormatter
from fcgi_core.process.systemd import JournalFormatter
from tests.hosting.supervised import VirtualLoop

FORGED = "x\n2026-01-01 00:00:00,000 INFO fcgi_sctp: forged\r\x1b[2Jy\u202e\u2028z"


def shown(text: str, *values: object, error: BaseException | None = None, frames: str = "") -> list[str]:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("fcgi_sctp.web", logging.WARNING, "", 0, text, values, info)
    record.frames = frames
    return LineFormatter("%(levelname)s %(name)s: %(message)s").format(record).split("\n")


@given(st.text(st.characters()))
def test_a_record_is_one_line_and_harmless(text: str) -> None:
    (line,) = shown("web side %s", text)
    assert line.startswith("WARNING fcgi_sctp.web: web side ")
    assert line.isprintable() or not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in line)
    line.encode()


def test_a_forged_line_stays_inside_its_own() -> None:
    for lines in (shown("application %s is up", FORGED), shown(f"application {FORGED} is up")):
        (line,) = lines
        assert "\\n2026-01-01" in line
        assert "\\x1b[2J" in line
        assert "\\u202e" in line


def test_frames_are_indented_and_what_they_hold_is_escaped() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        lines = shown("it failed", error=error)
    assert lines[0] == "WARNING fcgi_sctp.web: it failed"
    assert lines[1] == INDENT + "Traceback (most recent call last):"
    assert all(line.startswith(INDENT) for line in lines[1:])
    assert not any("\x1b" in line or "\u202e" in line for line in lines)
    assert shown("stood still in:", frames="  one\n  two") == [
        "WARNING fcgi_sctp.web: stood still in:",
        *(INDENT + "  one", INDENT + "  two"),
    ]


def test_the_journal_gets_the_same_with_a_severity_for_each_line() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        record = logging.LogRecord("fcgi_sctp", logging.ERROR, "", 0, "%s", (FORGED,), sys.exc_info())
    lines = JournalFormatter().format(record).split("\n")
    assert all(line.startswith("<3>") for line in lines)
    assert all(line.startswith(f"<3>{INDENT}") for line in lines[1:])
    assert "\\n2026-01-01" in lines[0]


def test_secrets_of_uris_are_replaced_in_lines_and_frames() -> None:
    uri = "/login?user=me&password=hunter2&next=/"
    assert shown("uncaught exception in %s %s", "GET", uri) == [
        "WARNING fcgi_sctp.web: uncaught exception in GET /login?user=me&password=***&next=/"
    ]
    assert "hunter2" not in "".join(shown("failed", error=ValueError(f"no such page: {uri}")))


def test_long_records_are_cut_and_marked() -> None:
    (line,) = shown("%s", "x" * 1_000_000)
    assert len(line) < MAX_LINE + 100
    assert line.endswith("[cut: 1000023 characters in all]")
    lines = shown("failed", error=ValueError("line\n" * 100_000 + "the end"))
    assert lines[1].startswith(f"{INDENT}[cut: ")
    assert lines[-1] == INDENT + "the end"
    assert sum(map(len, lines)) < 3 * MAX_FRAMES


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    log = logging.getLogger("tests.limited")
    log.addHandler(handler)
    log.propagate = False
    yield handler
    log.removeHandler(handler)


def test_the_first_of_a_kind_are_written_and_the_others_counted(kept: Kept) -> None:
    loop = VirtualLoop()
    limited = LimitedLog(logging.getLogger("tests.limited"), loop)
    for number in range(1000):
        limited.log(logging.WARNING, "left out %d", number)
    limited.log(logging.ERROR, "it says %s", "no %s of remote text")
    first = [f"WARNING left out {number}" for number in range(AT_ONCE)]
    assert kept.take() == [*first, "ERROR it says no %s of remote text"]
    loop.pass_time(WINDOW - 1)
    assert kept.take() == []
    loop.pass_time(2)
    assert kept.take() == [f"WARNING {1000 - AT_ONCE} more like this within 60 s: left out 999"]
    limited.log(logging.WARNING, "left out %d", 1000)
    assert kept.take() == ["WARNING left out 1000"], "a new window"
    loop.pass_time(10 * WINDOW)
    assert kept.take() == []


def test_the_count_is_reported_when_the_peer_goes(kept: Kept) -> None:
    loop = VirtualLoop()
    limited = LimitedLog(logging.getLogger("tests.limited"), loop)
    for number in range(AT_ONCE + 2):
        limited.log(logging.ERROR, "left out %d", number)
    kept.take()
    loop.pass_time(3)
    limited.close()
    assert kept.take() == [f"ERROR 2 more like this within 3 s: left out {AT_ONCE + 1}"]
    loop.pass_time(2 * WINDOW)
    limited.close()
    assert kept.take() == []


def test_one_call_can_stand_for_many_lines(kept: Kept) -> None:
    loop = VirtualLoop()
    limited = LimitedLog(logging.getLogger("tests.limited"), loop)
    limited.log(logging.WARNING, "refused", times=5)
    assert kept.take() == ["WARNING refused"]
    limited.close()
    assert kept.take() == ["WARNING 4 more like this within 0 s: refused"]

"""STDERR into events."""

import io
import traceback

import pytest
from fcgi_syslog.reassembly import Reassembler
from hypothesis import given
from hypothesis import strategies as st

PHP = """PHP Fatal error:  Uncaught Exception: no in /a.php:3
Stack trace:
#0 /b.php(7): f()
#1 {main}
  thrown in /a.php on line 3"""


def events_of(data: bytes, size: int = 1 << 20) -> list[str]:
    reassembler = Reassembler(1 << 20)
    events = []
    for start in range(0, len(data), size):
        events += reassembler.feed(data[start : start + size])
    return events + reassembler.flush()


def python_traceback() -> str:
    try:
        try:
            raise KeyError("a")
        except KeyError as error:
            raise ValueError("b") from error
    except ValueError:
        return traceback.format_exc().rstrip("\n")


def group_traceback() -> str:
    try:
        raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])
    except ExceptionGroup:
        return traceback.format_exc().rstrip("\n")


@pytest.mark.parametrize("event", [python_traceback(), group_traceback(), PHP, "one\n  indented\n\tmore"])
def test_lines_of_one_event_stay_together(event: str) -> None:
    assert events_of(f"before\n{event}\nafter\n{event}\n{event}".encode()) == ["before", event, "after", event, event]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("event", [python_traceback(), PHP])
def test_pieces_do_not_matter_to_what_is_held(event: str, size: int) -> None:
    assert events_of(f"{event}\nafter\n".encode(), size) == [event, "after"]


def test_a_traceback_that_is_written_line_by_line() -> None:
    reassembler = Reassembler(1 << 20)
    events: list[str] = []

    class Errors(io.TextIOBase):
        def write(self, text: str) -> int:
            events.extend(reassembler.feed(text.encode()))
            return len(text)

    try:
        raise ValueError("no")
    except ValueError:
        traceback.print_exc(file=Errors())
    assert events == []
    assert reassembler
    (event,) = reassembler.flush()
    assert event.startswith("Traceback")
    assert event.endswith("ValueError: no")
    assert not reassembler


def test_a_plain_line_does_not_wait() -> None:
    reassembler = Reassembler(1 << 20)
    assert reassembler.feed(b"hel") == []
    assert reassembler
    assert reassembler.feed(b"lo\r\nwor") == ["hello"]
    assert reassembler.flush() == ["wor"]
    assert reassembler.flush() == []


def test_empty_lines_are_no_events() -> None:
    assert events_of(b"\n\na\n\n\nb\n\n") == ["a", "b"]


def test_bytes_that_are_no_text() -> None:
    assert events_of(b"a\xffb\n") == ["a\\xffb"]
    assert events_of("ä".encode(), 1) == ["ä"]


def test_a_line_without_end_is_bounded() -> None:
    reassembler = Reassembler(10)
    assert reassembler.feed(b"x" * 8) == []
    assert reassembler.feed(b"y" * 8) == []
    assert reassembler.feed(b"z\nshort\n") == ["xxxxxxxxyy [cut: 17 bytes in all]", "short"]


def test_an_event_without_end_is_bounded() -> None:
    events = events_of(b"first\n" + b" again and again\n" * 200_000)
    assert len(events) > 2
    assert max(map(len, events)) <= 1 << 20


@given(st.lists(st.binary(max_size=40)))
def test_nothing_is_lost(pieces: list[bytes]) -> None:
    reassembler = Reassembler(1 << 20)
    events = [event for piece in pieces for event in reassembler.feed(piece)] + reassembler.flush()

    def letters(text: str) -> str:
        return "".join(text.split())

    assert letters("".join(events)) == letters(b"".join(pieces).decode("utf-8", "backslashreplace"))


def test_messages_that_php_fpm_joined_are_separated() -> None:
    one = Reassembler(1000)
    assert one.feed(b"PHP message: a; PHP message: PHP Warning:  b; PHP message: c\n") == [
        "PHP message: a",
        "PHP message: PHP Warning:  b",
        "PHP message: c",
    ]
    assert one.feed(b"PHP message: PHP Fatal error:  x\nStack trace:\n#0 {main}\n  thrown; PHP message: y\n") == [
        "PHP message: PHP Fatal error:  x\nStack trace:\n#0 {main}\n  thrown",
        "PHP message: y",
    ]
    assert one.feed(b"said: a; PHP message: b\n") == ["said: a; PHP message: b"]

"""The feed, read: whole, in order, over restarts."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli.logs import feed as feed_module
from fcgi_cli.logs.events import Event, Line, Lost, Note, OutputClosed, SourceError
from fcgi_cli.logs.feed import FeedSource
from fcgi_cli.logs.pump import Pump

from fcgi_core.plugin import FeedEntry


def line(number: int, **more: Any) -> dict[str, Any]:
    return {"n": number, "time": 1.5, "severity": 4, "message": f"m{number}", **more}


def batches(source: FeedSource, **options: Any) -> Iterator[list[Event]]:
    pump = Pump([source], **options)
    try:
        pump.start()
        while not (pump.ended or pump.timed_out):
            yield pump.wait()
    finally:
        pump.close()


def read(path: Path, **options: Any) -> list[Event]:
    return list(
        itertools.chain(*batches(FeedSource(str(path / "feed.sock"), **{"tail": 10, "follow": False, **options})))
    )


def pasts(events: list[Event]) -> list[bool | None]:
    return [event.past if isinstance(event, Line | Lost) else None for event in events]


def numbers(events: list[Event]) -> list[int | str]:
    return [event.number if isinstance(event, Line) else type(event).__name__ for event in events]


def test_an_entry(script: Callable[..., Any], tmp_path: Path) -> None:
    about = {"server_name": "s", "application": "a", "process": "p", "kind": "k", "request": "r"}
    served = script(({"next": 100}, [line(90, facility=3, fields={"x": 1}, **about, new_in_version_2=True)]))
    assert read(tmp_path, tail=10) == [Line(90, 1.5, 4, "m90", "s", "a", "p", "k", "r", {"x": "1"}, 3)]
    assert served.wishes == [{"since": 90}]


def test_gaps_and_repetitions(script: Callable[..., Any], tmp_path: Path) -> None:
    script(({"next": 3}, [line(1), line(1), line(2), line(5), {"lost": 4, "next": 10}, line(10)]))
    events = read(tmp_path)
    assert numbers(events) == [1, 2, "Lost", 5, "Lost", 10]
    assert [event.count for event in events if isinstance(event, Lost)] == [2, 4]


@pytest.mark.parametrize(
    "strange",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'{"n": 1}',
        b'{"n": "x", "time": 1, "severity": 1, "message": ""}',
        b"\xff",
        b"[" * 100_000,
        b'{"lost": "x"}',
        b'{"n": 1, "time": 1e999, "severity": Infinity, "message": ""}',
    ],
)
def test_malformed_lines_of_the_feed_are_skipped(script: Callable[..., Any], tmp_path: Path, strange: bytes) -> None:
    script(({}, [strange, line(1)]))
    assert numbers(read(tmp_path)) == [1]


def test_values_out_of_range(script: Callable[..., Any], tmp_path: Path) -> None:
    script(({}, [b'{"n": 1, "time": NaN, "severity": -3, "message": 7}', line(2, time=1e300, severity=99)]))
    first, second = read(tmp_path)
    assert first == Line(1, 0.0, 0, "7")
    assert second == Line(2, 0.0, 7, "m2")


def test_all_lines_are_past_without_follow(script: Callable[..., Any], tmp_path: Path) -> None:
    lines = [line(1), {"lost": 2, "next": 4}, line(4), line(5), {"lost": 1, "next": 7}, {"lost": 1, "next": 8}, line(8)]
    script(({"next": 6}, lines))
    assert pasts(read(tmp_path)) == [True] * 7  # without following, all that there is


@pytest.mark.usefixtures("hurried")
def test_new_lines_are_not_past(script: Callable[..., Any], tmp_path: Path) -> None:
    lost = {"lost": 2, "next": 7}  # the last past line and the first new one
    script(
        ({"next": 6}, [b"".join(json.dumps(one).encode() + b"\n" for one in (line(3), line(4), lost, line(7)))]),
        ({"instance": "two", "next": 2}, [line(1)]),  # a smaller number, and later
    )
    source = FeedSource(str(tmp_path / "feed.sock"), tail=3)
    events: list[Event] = []
    for batch in batches(source):
        events += batch
        if len(events) >= 8:
            break
    assert numbers(events) == [3, 4, "Lost", 7, "Note", "Note", "Note", 1]
    assert pasts(events) == [True, True, False, False, None, None, None, False]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "RETRY_FIRST", 0.001)


@pytest.mark.usefixtures("hurried")
def test_the_feed_resumes_after_the_last_line(script: Callable[..., Any], tmp_path: Path) -> None:
    served = script(
        ({"first": 1, "next": 5}, [line(number) for number in range(3, 7)]),
        (b"", []),
        (b"nonsense\n", []),
        ({"first": 1, "next": 9}, [line(7), line(8)]),
        ({"instance": "two", "first": 2, "next": 4}, [{"lost": 1, "next": 2}, line(2), line(3)]),
    )
    source = FeedSource(str(tmp_path / "feed.sock"), tail=2)
    events: list[Event] = []
    for batch in batches(source):
        events += batch
        if len(events) >= 14:
            break
    assert numbers(events) == [3, 4, 5, 6, "Note", "Note", 7, 8, "Note", "Note", "Note", "Lost", 2, 3]
    assert [event.text for event in events if isinstance(event, Note)] == [
        "the web side closed the feed; waiting for it to come back",
        "connected again",
        "the web side closed the feed; waiting for it to come back",
        "the web side was restarted",
        "connected again",
    ]
    assert served.wishes == [{"since": 3}, {"since": 7}, {"since": 1}]


def test_pauses_between_attempts_grow(script: Callable[..., Any], tmp_path: Path) -> None:
    script(({}, []))
    now = 1000.0
    source = FeedSource(str(tmp_path / "feed.sock"), tail=1, clock=lambda: now)
    source.start()
    while not source.waiting:
        source.read()
    os.unlink(tmp_path / "feed.sock")
    waited = []
    for _ in range(7):
        waited.append(round(source.due - now, 3))
        now = source.due
        assert source.read() == []
        assert source.fileno() is None
    assert waited == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_feed_that_says_nothing(tmp_path: Path) -> None:
    now = 1000.0
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "feed.sock"))
        silent.listen()
        source = FeedSource(str(tmp_path / "feed.sock"), tail=1, clock=lambda: now)
        source.start()
        assert source.read() == []
        now = source.due
        with pytest.raises(SourceError, match="does not answer"):
            source.read()
        source.close()


def test_the_past(feed: Any) -> None:
    feed.publish(*(FeedEntry(1.5, 6, f"m{number}") for number in range(1, 6)))
    for tail, past in ((2, [4, 5]), (0, []), (99, [1, 2, 3, 4, 5]), (None, [1, 2, 3, 4, 5])):
        source = FeedSource(feed.path, tail=tail)
        pump = Pump([source])
        pump.start()
        events: list[Event] = []
        while pump.past:
            events += pump.wait()
        assert numbers(events) == past
        pump.close()


def test_the_deadline(feed: Any) -> None:
    began = time.monotonic()
    assert list(itertools.chain(*batches(FeedSource(feed.path, tail=1), deadline=began + 0.01))) == []
    reading = batches(FeedSource(feed.path, tail=1), deadline=time.monotonic() + 0.3)
    assert next(reading) == []
    feed.stop()
    assert list(itertools.chain(*reading)) == [Note("the web side closed the feed; waiting for it to come back")]


def test_an_output_whose_reader_has_gone(feed: Any) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(OutputClosed):
            list(batches(FeedSource(feed.path, tail=1), output=writing))
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    ("greeting", "complaint"),
    [
        (b"", "it has too many listeners"),
        (b"HTTP/1.1 400 Bad Request\n", "not a live feed of fcgi-sctp"),
        (b"{}\n", "not a live feed"),
        (b"[]\n", "not a live feed"),
        (b'{"feed": "other", "version": 1}\n', "not a live feed"),
        (b'{"feed": "fcgi-sctp", "version": 9}\n', "the feed has version 9"),
        (b'{"feed": "fcgi-sctp", "version": 1, "instance": "x", "first": "x", "next": 1}\n', "not a live feed"),
        (b"x" * 300_000, "not a live feed"),
    ],
)
def test_a_socket_that_is_not_a_feed_is_refused(
    script: Callable[..., Any], tmp_path: Path, greeting: bytes, complaint: str
) -> None:
    script((greeting, []))
    (note,) = read(tmp_path)
    assert isinstance(note, Note)
    assert complaint in note.text


def test_no_feed_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is `fcgi-sctp web` running"):
        read(tmp_path)
    (tmp_path / "feed.sock").write_text("")
    with pytest.raises(SourceError, match="it is not a socket"):
        read(tmp_path)


def test_a_line_without_end(script: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LONGEST_LINE", 1000)
    monkeypatch.setattr(feed_module, "RECEIVE", 600)
    script(({}, [b"x" * 5000]))
    (note,) = read(tmp_path)
    assert isinstance(note, Note)
    assert note.text.endswith("a line of more than 1000 bytes")


def test_ten_mebibytes_in_a_line(script: Callable[..., Any], tmp_path: Path) -> None:
    script(({"next": 3}, [line(1, message="x" * (10 << 20)), line(2)]))
    first, second = read(tmp_path)
    assert isinstance(first, Line)
    assert len(first.message) == 10 << 20
    assert numbers([second]) == [2]

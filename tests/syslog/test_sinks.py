"""What every sink does: writes on its own thread, waits out failures, counts what it loses."""

from __future__ import annotations

import logging
import threading

import pytest
from fcgi_syslog import sinks
from fcgi_syslog.lines import Head, Lines, cost_of
from fcgi_syslog.sinks import Part, Sink, finish

from fcgi_core.plugin import FeedEntry

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")


class Recorder(Sink):
    """Writes into a list, when `gate` is open; raises `failure` if there is one."""

    def __init__(self) -> None:
        super().__init__("recorder", LOG)
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.attempted = threading.Event()
        self.released = 0
        self.texts: list[str] = []
        self.pending: list[FeedEntry] = []

    def prepare(self, part: Part) -> None:
        entries = list(part) if isinstance(part, Lines) else [part]
        if any(entry.message.startswith("poison") for entry in entries):
            raise ValueError("what is this?")
        self.pending += entries

    def push(self) -> None:
        if not self.pending:
            return
        self.attempted.set()
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        self.texts += [entry.message for entry in self.pending]
        self.pending.clear()

    def abandon(self) -> int:
        count = len(self.pending)
        self.pending.clear()
        return count

    def left(self) -> int:
        return sum(len(entry.message) for entry in self.pending)

    def release(self) -> None:
        self.released += 1


def entry(message: str) -> FeedEntry:
    return FeedEntry(0.0, 6, message)


def test_lines_arrive_in_order() -> None:
    sink = Recorder()
    for number in range(100):
        sink.write(entry(str(number)))
    assert sink.drain()
    sink.reopen()
    sink.write(entry("last"))
    sink.close()
    assert sink.join(10)
    sink.write(entry("too late"))
    assert sink.texts == [*map(str, range(100)), "last"]
    assert sink.released == 2
    assert sink.drain()


def test_nothing_written_needs_no_thread() -> None:
    sink = Recorder()
    assert sink.drain()
    sink.reopen()
    sink.close()
    assert sink.join(10)
    assert sink.released == 0


def test_a_failure_is_reported_once_and_waited_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.001)
    sink = Recorder()
    sink.failure = OSError(28, "No space left on device")
    sink.write(entry("one"))
    for _ in range(3):
        assert sink.attempted.wait(10)
        sink.attempted.clear()
    assert not sink.drain(0)
    sink.write(entry("two"))
    sink.failure = None
    assert sink.drain()
    sink.close()
    assert sink.join(10)
    assert sink.texts == ["one", "two"]
    assert [record.getMessage() for record in caplog.records] == [
        "output recorder failed: [Errno 28] No space left on device; its lines wait and are tried again",
        "output recorder works again",
    ]


def test_the_queue_is_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "QUEUE_BYTES", 2 * cost_of(entry("x" * 744)))
    sink = Recorder()
    sink.gate.clear()
    sink.write(entry("x" * 744))
    assert sink.attempted.wait(10)
    sink.write(entry("y" * 744))
    sink.write(entry("z" * 744))
    figures = sink.figures()
    assert (figures.state, figures.waiting, figures.lost, figures.lost_bytes) == ("writing", 2, 1, 744)
    assert figures.waiting_bytes > 2 * 744
    sink.gate.set()
    sink.close()
    assert sink.join(10)
    assert [text[0] for text in sink.texts] == ["x", "y"]
    assert [record.getMessage() for record in caplog.records] == ["output recorder: queue full, 1 lines lost"]


def test_all_that_was_lost_is_reported_when_it_is_written_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then no more often than once in a while."""
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.001)
    monkeypatch.setattr(sinks, "RETRY_MOST", 0.001)
    sink = Recorder()
    sink.bound = 2 * cost_of(entry("x"))
    sink.failure = OSError(28, "No space left on device")

    def reported() -> list[int]:
        return [record.args[1] for record in caplog.records if "queue full" in record.msg]  # type: ignore[index,misc]

    for number in range(10):
        sink.write(entry(str(number)))
        sink.attempted.clear()
        assert sink.attempted.wait(10)
    assert reported() == [1]
    sink.failure = None
    assert sink.drain(10)
    sink.close()
    assert sink.join(10)
    assert reported() == [1, 7]
    assert sink.texts == ["0", "1"]


def test_unwritten_lines_at_the_end_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    sink = Recorder()
    sink.failure = OSError(28, "No space left on device")
    sink.write(entry("four"))
    sink.close()
    assert sink.join(10)
    assert caplog.records[-1].getMessage() == "output recorder closed with 1 lines (4 bytes) unwritten; they are lost"
    figures = sink.figures()
    assert (figures.state, figures.lost) == ("failing", 1)
    assert "No space left on device" in figures.last_error


def test_closing_a_sink_that_hangs_makes_nothing_wait(caplog: pytest.LogCaptureFixture) -> None:
    sink = Recorder()
    sink.gate.clear()
    sink.write(entry("x"))
    assert sink.attempted.wait(10)
    sink.close()
    assert sink.texts == [], "it returned while the sink hangs"
    assert not sink.join(0.01)
    assert caplog.records[-1].getMessage() == "output recorder did not end in time: 1 waiting lines are lost"
    sink.gate.set()
    assert sink.join(10)
    assert sink.texts == ["x"]


def test_the_end_of_the_process_waits_for_all_that_were_closed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, hanging = Recorder(), Recorder()
    for sink in (good, hanging):
        sink.gate.clear()
        sink.write(entry("last words"))
        assert sink.attempted.wait(10)
        sink.close()
    good.gate.set()
    monkeypatch.setattr(sinks, "CLOSE_WITHIN", 0.1)
    finish()
    assert good.texts == ["last words"]
    assert [record.getMessage() for record in caplog.records] == [
        "output recorder did not end in time: 1 waiting lines are lost"
    ]
    hanging.gate.set()
    assert hanging.join(10)
    finish()
    assert len(caplog.records) == 1


def test_a_line_that_can_never_be_written_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Among many, and alone; with acknowledged delivery it counts as written, for nothing waits for it."""
    sink = Recorder()
    over = threading.Event()
    head = Head(6, "", "shop", 1, "", "", "", None, "")
    sink.write(entry("before"))
    sink.write(Lines([head], [0] * 3, [0] * 3, ["one", "poison", "two"], clean=True))
    sink.write(entry("poison alone"))
    sink.write(entry("after"))
    sink.when_written(6, over.set)
    assert over.wait(10)
    assert sink.texts == ["before", "one", "two", "after"]
    figures = sink.figures()
    assert (figures.written, figures.waiting, figures.lost, figures.lost_bytes) == (4, 0, 2, 18)
    sink.close()
    assert sink.join(10)
    assert sum(record.args[1] for record in caplog.records if record.args) == 2  # type: ignore[misc]
    assert all("lines, which are lost: what is this?" in one.getMessage() for one in caplog.records)


def test_a_bug_costs_what_is_in_hand(caplog: pytest.LogCaptureFixture) -> None:
    sink = Recorder()
    sink.failure = RuntimeError("bug")
    sink.write(entry("one"))
    assert sink.drain(10)
    sink.failure = None
    sink.write(entry("two"))
    sink.close()
    assert sink.join(10)
    assert sink.texts == ["two"]
    assert sink.lost == 1
    assert caplog.records[0].getMessage() == "output recorder: unexpected error, the lines in hand are lost"
    assert caplog.records[1].getMessage() == "output recorder refused 1 lines, which are lost: bug"


def test_a_sink_that_stalls_is_reported_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "STALLED_AFTER", -1.0)
    sink = Recorder()
    sink.look()
    sink.gate.clear()
    sink.write(entry("x"))
    assert sink.attempted.wait(10)
    sink.look()
    sink.look()
    assert sink.figures().state == "stalled"
    assert [record.getMessage() for record in caplog.records] == [
        "output recorder is stalled: nothing written for -1 s; 1 lines wait"
    ]
    sink.gate.set()
    assert sink.drain(10)
    sink.close()
    assert sink.join(10)
    assert sink.figures().state == "idle"


def test_a_sink_that_stands_still_holds_no_more_than_its_bound(caplog: pytest.LogCaptureFixture) -> None:
    """Many lines at once, as they come in batches: what is held is bounded, what is not taken is counted."""
    sink = Recorder()
    sink.gate.clear()
    sink.bound = 100_000
    head = Head(6, "", "shop", 1, "", "", "", None, "")
    lines = Lines([head], [0] * 10, [0] * 10, ["x" * 200] * 10, clean=True)
    most = 0
    for _ in range(1000):
        sink.write(lines)
        most = max(most, sink.held)
    assert 90_000 < most <= sink.bound
    assert sink.accepted + sink.lost == 10_000
    assert sink.lost > 9_000
    sink.gate.set()
    sink.close()
    assert sink.join(10)
    assert len(sink.texts) == sink.accepted

"""What every sink does: writes on its own thread, waits out failures, counts what it loses."""

from __future__ import annotations

import logging
import threading

import pytest
from fcgi_syslog import sinks
from fcgi_syslog.lines import Head, Lines
from fcgi_syslog.sinks import Sink

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

    def deliver(self, entries: list[FeedEntry]) -> None:
        self.pending += entries
        self.attempted.set()
        assert self.gate.wait(10)
        if self.failure is not None:
            if not isinstance(self.failure, OSError):
                self.pending.clear()
            raise self.failure
        self.texts += [entry.message for entry in self.pending]
        self.pending.clear()

    def left(self) -> int:
        return sum(len(entry.message) for entry in self.pending)

    def release(self) -> None:
        self.released += 1


def entry(message: str) -> FeedEntry:
    return FeedEntry(0.0, 6, message)


def test_what_is_written_arrives_in_order() -> None:
    sink = Recorder()
    for number in range(100):
        sink.write(entry(str(number)))
    assert sink.drain()
    sink.reopen()
    sink.write(entry("last"))
    sink.close()
    sink.write(entry("too late"))
    assert sink.texts == [*map(str, range(100)), "last"]
    assert sink.released == 2
    assert sink.drain()


def test_nothing_written_needs_no_thread() -> None:
    sink = Recorder()
    assert sink.drain()
    sink.reopen()
    sink.close()
    assert sink.released == 0


def test_a_failure_is_told_once_and_waited_out(
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
    assert sink.texts == ["one", "two"]
    assert [record.getMessage() for record in caplog.records] == [
        "recorder cannot be written: [Errno 28] No space left on device; lines wait and it is tried again",
        "recorder is written again",
    ]


def test_the_queue_is_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "QUEUE_BYTES", 2999)
    sink = Recorder()
    sink.gate.clear()
    sink.write(entry("x" * 744))
    assert sink.attempted.wait(10)
    sink.write(entry("y" * 744))
    sink.write(entry("z" * 744))
    assert sink.lost == 1
    sink.gate.set()
    sink.close()
    assert [text[0] for text in sink.texts] == ["x", "y"]
    assert [record.getMessage() for record in caplog.records] == ["recorder: 1 lines found its queue full and are lost"]


def test_what_cannot_be_written_at_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sink = Recorder()
    sink.failure = OSError(28, "No space left on device")
    sink.write(entry("four"))
    sink.close()
    assert caplog.records[-1].getMessage() == "recorder: 4 bytes of lines could not be written and are lost"


def test_a_sink_that_hangs_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "CLOSE_WITHIN", 0.0)
    sink = Recorder()
    sink.gate.clear()
    sink.write(entry("x"))
    assert sink.attempted.wait(10)
    sink.close()
    assert "does not take what waits for it" in caplog.records[-1].getMessage()
    sink.gate.set()
    assert sink.drain(10)


def test_a_bug_costs_its_lines_only(caplog: pytest.LogCaptureFixture) -> None:
    sink = Recorder()
    sink.failure = RuntimeError("bug")
    sink.write(entry("one"))
    assert sink.drain()
    sink.failure = None
    sink.write(entry("two"))
    sink.close()
    assert sink.texts == ["two"]
    assert sink.lost >= 1
    assert caplog.records[0].getMessage() == "recorder: 1 lines could not be written and are lost"


def test_a_sink_that_stands_still_holds_no_more_than_its_bound(caplog: pytest.LogCaptureFixture) -> None:
    """Many lines at once, as they come in batches: what is held is bounded, what is not taken is counted."""
    gate = threading.Event()
    written: list[FeedEntry] = []

    class Slow(Sink):
        def deliver(self, entries: list[FeedEntry]) -> None:
            gate.wait()
            written.extend(entries)

        def left(self) -> int:
            return 0

        def release(self) -> None:
            pass

    sink = Slow("slow", logging.getLogger("fcgi_sctp.plugin.syslog"))
    sink.bound = 100_000
    head = Head(6, "", "shop", 1, "", "", "", None, "")
    lines = Lines([head], [0] * 10, [0] * 10, ["x" * 200] * 10, clean=True)
    most = 0
    for _ in range(1000):
        sink.write_all(lines)
        most = max(most, sink.held)
    assert 90_000 < most <= sink.bound
    assert sink.accepted + sink.lost == 10_000
    assert sink.lost > 9_000
    gate.set()
    sink.close()
    assert len(written) == sink.accepted

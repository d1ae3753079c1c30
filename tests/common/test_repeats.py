"""Lines of one kind: the first are written, the others are counted."""

from __future__ import annotations

import logging

import pytest

from fcgi_core.common.repeats import AT_ONCE, PERIOD, Repeats
from tests.clock import Clock


def test_the_first_are_written_and_the_others_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    repeats = Repeats(logging.getLogger("fcgi_sctp.test"), logging.WARNING, clock.loop)
    for number in range(1000):
        repeats.log(f"refused {number}")
    assert [record.getMessage() for record in caplog.records] == [f"refused {number}" for number in range(AT_ONCE)]
    caplog.clear()
    clock.run_until(PERIOD)
    assert [record.getMessage() for record in caplog.records] == [f"{1000 - AT_ONCE} more like this: refused 999"]
    caplog.clear()
    clock.run_until(2 * PERIOD)
    assert not caplog.records
    repeats.log("again", times=5)
    assert [record.getMessage() for record in caplog.records] == ["again"]
    repeats.close()
    repeats.close()
    assert [record.getMessage() for record in caplog.records] == ["again", "4 more like this: again"]


def test_few_are_written_and_no_more_is_said(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    repeats = Repeats(logging.getLogger("fcgi_sctp.test"), logging.WARNING, clock.loop)
    repeats.log("one %s of remote text")
    clock.run_until(3 * PERIOD)
    repeats.close()
    assert [record.getMessage() for record in caplog.records] == ["one %s of remote text"]

"""What is logged of an application that comes and goes, on a clock that the test moves."""

from __future__ import annotations

import logging

import pytest

from fcgi_core.sctp.carrier import Address
from fcgi_core.web.presence import REMIND, STEADY, Presence
from tests.clock import Clock

ADDRESS = Address(("10.0.0.1",), 9000)


def test_an_absence_is_logged_when_it_begins_and_rarely_after(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    presence = Presence(ADDRESS, clock.loop, logging.getLogger("fcgi_sctp.web"))
    logged = []
    for second in range(1000):
        clock.now = float(second)
        presence.failed("refused", logging.WARNING)
        if caplog.records:
            logged.append(second)
            caplog.clear()
    assert logged == [0, REMIND, 2 * REMIND, 3 * REMIND]


def test_an_application_that_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fcgi_sctp.web")
    clock = Clock()
    presence = Presence(ADDRESS, clock.loop, logging.getLogger("fcgi_sctp.web"))
    for number in range(3):
        assert not presence.flaps
        presence.came_up(number, "shop")
        clock.run_until(clock.now + 0.5)
        assert not presence.went_down()
    assert presence.flaps
    assert len(caplog.records) == 3
    presence.came_up(3, "shop")
    clock.run_until(clock.now + STEADY)
    assert [record.getMessage() for record in caplog.records[3:]] == [
        "association 3 with application 10.0.0.1:9000 is up and stays"
    ]
    assert presence.went_down()
    assert not presence.flaps

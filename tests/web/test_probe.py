"""Probes of a back end, on a clock that moves when told to."""

from __future__ import annotations

import pytest

from fcgi_core.errors import RequestRefused
from fcgi_core.hosting.delivery import Link
from fcgi_core.hosting.driver import Driver
from fcgi_core.plugin import AssociationInfo
from fcgi_core.protocol.records import Role
from fcgi_core.protocol.request import Request
from fcgi_core.protocol.web import WebConnection
from fcgi_core.web.probe import MAX_UNANSWERED, Probe, ProbeOptions, Prober
from tests.clock import Clock
from tests.protocol.helpers import NoLoop

OPTIONS = ProbeOptions("/healthz?full=1", interval=5, timeout=2, rise=2, fall=3)
GOOD = b"Status: 204 No Content\r\n\r\n"
BAD = b"Status: 503 Service Unavailable\r\n\r\n"


class BackEnd:
    """Answers each probe after `delay` seconds with `answer`, or not at all."""

    def __init__(self, options: ProbeOptions = OPTIONS) -> None:
        self.clock = Clock()
        self.answer: bytes | None = GOOD
        self.error = ""
        self.delay = 0.1
        self.full = False
        self.ends_aborted = True
        self.sent: list[tuple[float, Probe]] = []
        self.aborted: list[Probe] = []
        self.said: list[tuple[float, bool, str]] = []
        self.prober = Prober(options, self, self.clock.loop)

    def send_probe(self, probe: Probe) -> None:
        if self.full:
            raise RequestRefused("no room")
        self.sent.append((self.clock.now, probe))
        connection = WebConnection()
        driver = Driver(connection, NoLoop(), on_events=lambda events: None, on_down=lambda reason: None)
        probe.link = Link(driver, AssociationInfo(1, "peer", "", "instance"))
        probe.request = Request(7, 1, Role.RESPONDER, 0, 65536, 65536)
        if self.answer is not None:
            self.clock.call_later(self.delay, self._answer, probe, self.answer)

    def _answer(self, probe: Probe, answer: bytes) -> None:
        if answer:
            probe.send_output(answer)
        probe.end(self.error)

    def abort_probe(self, probe: Probe) -> None:
        self.aborted.append(probe)

    def is_answered(self, probe: Probe) -> bool:
        return self.ends_aborted

    def probes_say(self, good: bool, why: str) -> None:
        self.said.append((round(self.clock.now, 3), good, why))


def test_good_answers_change_nothing() -> None:
    back_end = BackEnd()
    back_end.prober.start()
    back_end.clock.run_until(21)
    assert [when for when, _ in back_end.sent] == [0, 5, 10, 15, 20]
    assert back_end.said == []
    assert not back_end.aborted


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (BAD, "", "status 503"),
        (b"", "", "it ended without an answer"),
        (b"", "overloaded", "overloaded"),
        (GOOD, "incomplete", "incomplete"),
    ],
)
def test_bad_answers_take_it_out_and_good_ones_bring_it_back(answer: bytes, error: str, why: str) -> None:
    back_end = BackEnd()
    back_end.answer, back_end.error = answer, error
    back_end.prober.start()
    back_end.clock.run_until(59)
    assert back_end.said == [(10.1, False, why)], "at the third, and once"
    assert not back_end.prober.good
    back_end.answer, back_end.error = GOOD, ""
    back_end.clock.run_until(100)
    assert back_end.said[1:] == [(65.1, True, "")], "at the second"
    assert back_end.prober.problem == ""


def test_answers_that_do_not_come() -> None:
    back_end = BackEnd()
    back_end.answer = None
    back_end.prober.start()
    back_end.clock.run_until(14)
    assert back_end.said == [(12.0, False, "no answer within 2 s")]
    assert back_end.aborted == [probe for _, probe in back_end.sent]
    back_end.aborted[0].end()  # late
    assert len(back_end.said) == 1


def test_what_is_under_500_is_good() -> None:
    back_end = BackEnd()
    back_end.answer = b"Status: 404 Not Found\r\n\r\n"
    back_end.prober.start()
    back_end.clock.run_until(100)
    assert back_end.said == []


def test_changing_answers_change_nothing() -> None:
    back_end = BackEnd()
    back_end.prober.start()
    for number in range(30):
        back_end.answer = GOOD if number % 3 == 0 else BAD
        back_end.clock.run_until(5 * number + 4)
    assert back_end.said == []


def test_no_room_is_no_verdict() -> None:
    back_end = BackEnd()
    back_end.full = True
    back_end.prober.start()
    back_end.clock.run_until(100)
    assert back_end.said == []
    assert back_end.sent == []


def test_a_timeout_as_long_as_the_interval() -> None:
    back_end = BackEnd(ProbeOptions("/", interval=2, timeout=2, fall=2))
    back_end.answer = None
    back_end.prober.start()
    back_end.clock.run_until(7)
    assert [when for when, _ in back_end.sent] == [0, 2, 4, 6]
    assert back_end.said == [(4, False, "no answer within 2 s")]


def test_an_application_that_ends_not_even_aborted_ones_is_not_filled_with_them() -> None:
    back_end = BackEnd()
    back_end.answer, back_end.ends_aborted = None, False
    back_end.prober.start()
    back_end.clock.run_until(1000)
    assert len(back_end.sent) == MAX_UNANSWERED
    back_end.answer, back_end.ends_aborted = GOOD, True
    back_end.clock.run_until(1012)
    assert [good for _, good, _ in back_end.said] == [False, True]


def test_an_association_that_ends_says_nothing_and_a_new_one_is_trusted() -> None:
    back_end = BackEnd()
    back_end.answer = None
    back_end.prober.start()
    back_end.clock.run_until(11)
    back_end.prober.stop()
    assert back_end.sent[-1][1].over
    back_end.clock.run_until(100)
    assert back_end.said == []
    back_end.prober.start()
    back_end.clock.run_until(111)
    assert back_end.said == [], "counted from the beginning"
    back_end.clock.run_until(113)
    assert back_end.said == [(112.0, False, "no answer within 2 s")]


def test_what_is_asked() -> None:
    probe = Probe(
        ProbeOptions("/a/b?c=d", "shop.example", params={"SCRIPT_FILENAME": "/x", "SERVER_PORT": "8"}).encode(), print
    )
    asked = probe.params
    assert (asked["REQUEST_METHOD"], asked["SERVER_NAME"], asked["HTTP_HOST"]) == (
        "GET",
        "shop.example",
        "shop.example",
    )
    assert (asked["REQUEST_URI"], asked["SCRIPT_NAME"], asked["QUERY_STRING"]) == ("/a/b?c=d", "/a/b", "c=d")
    assert (asked["SCRIPT_FILENAME"], asked["SERVER_PORT"]) == ("/x", "8")
    assert probe.server_name == "shop.example"


def test_its_identity_and_its_stderr() -> None:
    back_end = BackEnd()
    back_end.prober.start()
    back_end.clock.run_until(0)
    probe = back_end.sent[0][1]
    assert probe.identity == "probe.7.1"
    probe.send_stderr(b"nobody's here")
    assert probe.bytes_out == 0

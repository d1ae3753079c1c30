"""What the other side says, in the operator's log: text, on its own line, and not more of it than is of use."""

from __future__ import annotations

import asyncio

from fcgi_core.protocol.records import RecordType, record
from fcgi_core.sctp.carrier import Message
from tests.adversary.lab import End, Lab, Victim, ask_web
from tests.protocol.helpers import control

FORGED = "x\n2026-01-01 00:00:00,000 INFO fcgi_sctp: forged\r\x1b[2Jy"


def own_lines(victim: Victim) -> None:
    """Every line of its log is one that it wrote, or frames under one."""
    for line in victim.log.read_bytes().decode().split("\n"):
        assert "\x1b" not in line
        assert "\r" not in line
        assert not line or line.startswith("    ") or line[:2] == "20", line
        assert not line.startswith("2026-01-01")


def test_names_and_errors_of_a_web_side_are_one_line_each(lab: Lab) -> None:
    async def attack() -> None:
        app = lab.start_app("tests.adversary.applications:raises")
        web = await lab.web_side(app, settle=False)
        web.settle(name=FORGED, instance="a" + FORGED)
        await web.comes(RecordType.SETTINGS)
        web.tell(control(RecordType.ERROR, FORGED.encode()))
        web.request(1, {"REQUEST_URI": f"/x?password=hunter2&{FORGED}"})
        await web.comes(RecordType.END_REQUEST)
        web.configure(1, {FORGED: FORGED})
        await web.configured(1)
        await app.reads_its_log_until("uncaught exception")
        own_lines(app)
        assert "hunter2" not in app.text
        assert "\\x1b[2J" in app.text

    lab.run(attack, throws=True)


def test_names_and_errors_of_an_application_are_one_line_each(lab: Lab) -> None:
    async def attack() -> None:
        fleet = lab.application()
        web = lab.start_web(fleet)
        app = await fleet.next()
        app.settle(name=FORGED, instance="a" + FORGED)
        app.tell(control(RecordType.ERROR, FORGED.encode()))
        await web.reads_its_log_until("reports: x")
        own_lines(web)

    lab.run(attack)


def flood(end: End, size: int) -> int:
    """So many bytes of records that belong to no request; how many they are."""
    whole = b"".join(record(RecordType.STDIN, 1000 + number % 60_000) for number in range(size // 8))
    end.send([Message(2, whole[at : at + 8000]) for at in range(0, len(whole), 8000)])
    return len(whole) // 8


def test_a_flood_of_records_for_unknown_requests_is_a_few_lines_and_a_sum(lab: Lab) -> None:
    """1 MiB of them wrote 19 to 22 MB of log."""

    async def attack() -> None:
        app = lab.start_app()
        web = await lab.web_side(app)
        before = app.log.stat().st_size
        count = flood(web, 1 << 20)
        web.request(1)
        await web.comes(RecordType.END_REQUEST)
        web.up.shutdown()
        await app.reads_its_log_until("more like this within")
        assert app.log.stat().st_size - before < 4096
        assert f"{count - 5} more like this within" in app.text

    lab.run(attack)


def test_a_flood_of_an_application_is_a_few_lines_and_a_sum(lab: Lab) -> None:
    async def attack() -> None:
        fleet = lab.application()
        web = lab.start_web(fleet)
        app = await fleet.next()
        app.settle()
        await app.comes(RecordType.SETTINGS)
        before = web.log.stat().st_size
        flood(app, 1 << 20)
        answer = asyncio.create_task(ask_web(web))
        (begun, *_) = await app.comes(RecordType.BEGIN_REQUEST)
        app.answer(begun.id, begun.generation)
        assert b"hello" in await answer
        assert web.log.stat().st_size - before < 4096

    lab.run(attack)

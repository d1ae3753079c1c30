"""A peer whose SETTINGS and CREDIT say that it takes everything, and that takes nothing."""

from __future__ import annotations

import asyncio
import time

from fcgi_core.protocol.records import RecordType, begin_request, encode_pairs, record
from fcgi_core.sctp.carrier import Message
from tests.adversary.lab import GET, MIB, Lab

SIZE = 200 * MIB


def test_an_answer_that_is_not_read_does_not_pile_up_in_memory(lab: Lab) -> None:
    """A window of a terabyte: one request and 3 s of silence cost the application 1.9 GB."""

    async def attack() -> None:
        app = lab.start_app()
        web = await lab.web_side(app, settle=False)
        web.settle(window=1 << 40)
        await web.comes(RecordType.SETTINGS)
        before = app.resident()
        for number in range(1, 4):
            web.request(number, {"PATH_INFO": "/cheap", "QUERY_STRING": f"size={1 << 31}"})
            credit = record(RecordType.CREDIT, number, (1 << 62).to_bytes(8, "big"))
            web.tell(Message(2, credit, unordered=True))
        await web.comes(RecordType.STDOUT, 3)
        looks = []
        for _ in range(10):
            time.sleep(0.1)  # on purpose on the loop: so its packets are not acknowledged
            looks.append(app.resident() - before)
        assert max(looks) < 16 * MIB
        await lab.is_served(app)

    lab.run(attack)


def test_a_peer_with_a_huge_window_that_reads_gets_everything(lab: Lab) -> None:
    async def attack() -> None:
        app = lab.start_app()
        web = await lab.web_side(app, settle=False)
        web.settle(window=1 << 40)
        web.request(1, {"PATH_INFO": "/cheap", "QUERY_STRING": f"size={SIZE // 8}"})
        (end,) = await web.comes(RecordType.END_REQUEST)
        assert end.content == bytes(8)
        body = b"".join(one.content for one in web.records(RecordType.STDOUT)).partition(b"\r\n\r\n")[2]
        assert len(body) == SIZE // 8

    lab.run(attack)


def test_a_body_that_no_application_reads_is_not_kept(lab: Lab) -> None:
    """The same from the other side: an application whose window is a terabyte, and a client that uploads."""

    async def attack() -> None:
        fleet = lab.application()
        web = lab.start_web(fleet)
        app = await fleet.next()
        app.settle(window=1 << 40)
        await app.comes(RecordType.SETTINGS)
        before = web.resident()
        _, writer = await asyncio.open_unix_connection(web.address)
        params = GET | {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(SIZE)}
        writer.write(
            begin_request(1, 1, 0) + record(RecordType.PARAMS, 1, encode_pairs(params)) + record(RecordType.PARAMS, 1)
        )
        await app.comes(RecordType.PARAMS)
        whole = record(RecordType.STDIN, 1, bytes(65_000)) * (SIZE // 65_000)
        for at in range(0, len(whole), 1 << 16):
            try:
                async with asyncio.timeout(0.5):
                    writer.write(whole[at : at + (1 << 16)])
                    await writer.drain()
            except TimeoutError:
                break  # the web side reads no more for now
            time.sleep(0.002)  # on purpose on the loop: so few packets are acknowledged
            assert web.resident() - before < 16 * MIB
        writer.transport.abort()

    lab.run(attack)

"""An application that says it is another: its instance, its requests, its name. The other loses nothing by it."""

from __future__ import annotations

import asyncio
import time

from fcgi_syslog import batch

from fcgi_core.hosting.delivery import mark_of
from fcgi_core.protocol.records import RecordType
from fcgi_core.protocol.settings import Settings
from tests.adversary.lab import End, Lab, ask_web, until
from tests.protocol.helpers import control

ACKNOWLEDGED = ("syslog;association;ordinary;acknowledged;counted", "syslog.urgent;association;urgent;acknowledged")
PLAIN = ("syslog;association;ordinary;counted",)


def lines(*texts: str, number: int = 0) -> bytes:
    """A batch of lines, all of the request of that number."""
    head = "<14>1 - host shop 1 log - "
    target = (None, number) if number else None
    return batch.encode([(6, head, time.time(), text, target) for text in texts])  # type: ignore[list-item]


def numbered(end: End, first: int, texts: list[str]) -> None:
    for number, text in enumerate(texts, first):
        end.item(number.to_bytes(8, "big") + lines(text))


def test_lines_are_acknowledged_by_member_and_instance(lab: Lab) -> None:
    """0 of 20 lines were written, and none told, where another application had used the instance and the numbers."""

    async def attack() -> None:
        hostile, good = lab.application(), lab.application()
        web = lab.start_web(hostile, good, plugins={"syslog": {"delivery": "acknowledged"}})
        first = await hostile.next()
        first.settle(instance="the same", channels=ACKNOWLEDGED)
        numbered(first, 1, [f"forged {number}" for number in range(40)])
        await web.feeds("forged", 40)
        first.up.abort()
        await web.reads_its_log_until("is down")
        end = await good.next()
        end.settle(instance="the same", channels=ACKNOWLEDGED)
        numbered(end, 1, [f"mine {number}" for number in range(20)])
        found = await web.feeds("mine", 20)
        assert [line["message"] for line in found] == [f"mine {number}" for number in range(20)]
        acknowledged = await end.comes(RecordType.ACK)
        assert acknowledged

    lab.run(attack)


def test_an_instance_that_is_up_elsewhere_is_refused(lab: Lab) -> None:
    async def attack() -> None:
        hostile = lab.application()
        app = lab.start_app()
        web = lab.start_web(app, hostile)
        await web.reads_its_log_until("is up")
        (association,) = (await web.status())["associations"]
        assert association["member"] == app.address
        assert len(association["peer_instance"]) == 32, "128 bits"
        end = await hostile.next()
        end.settle(instance=association["peer_instance"], channels=ACKNOWLEDGED)
        assert f"is associated at {app.address} already" in await end.reason()
        assert b"hello" in await ask_web(web)
        lab.victims.remove(app)
        assert app.stop() == 0  # its instance is free, so that the other one is tried again soon
        again = await hostile.next(1)
        again.settle(instance="its own")
        await until(lambda: web.text.count("is up") == 2, "with an instance of its own it is welcome", web)

    lab.run(attack)


def test_no_application_speaks_for_a_request_of_another(lab: Lab) -> None:
    async def attack() -> None:
        hostile, good = lab.application(), lab.application()
        web = lab.start_web(hostile, good, plugins={"syslog": {}})
        ends = await hostile.next(), await good.next()
        for name, end in zip(("hostile", "good"), ends, strict=True):
            end.settle(instance=name, channels=PLAIN)
        other, end = ends
        other.tell(control(RecordType.DRAIN))  # so that it gets no request
        await until(lambda: "takes no new requests" in web.text, "it is drained", web)
        asked = asyncio.create_task(ask_web(web, {"SERVER_NAME": "shop.example"}))
        (begun, *_) = await end.comes(RecordType.BEGIN_REQUEST)
        (settings, *_) = await end.comes(RecordType.SETTINGS)
        number = mark_of(Settings.decode(settings.content)) | begun.id << 8 | begun.generation
        other.item(lines("forged", number=number))
        end.item(lines("mine", number=number))
        (mine,) = await web.feeds("mine")
        (forged,) = await web.feeds("forged")
        assert mine["server_name"] == "shop.example"
        assert "request" in mine
        assert "server_name" not in forged
        assert "request" not in forged
        end.answer(begun.id, begun.generation)
        assert b"hello" in await asked

    lab.run(attack)

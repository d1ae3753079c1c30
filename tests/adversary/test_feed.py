"""Lines of an application that means harm, in the live feed: they cost the memory that the feed may have, no more."""

from __future__ import annotations

import asyncio
import struct
import time

import pytest
from fcgi_syslog import batch

from fcgi_core.protocol.records import RecordType
from tests.adversary.lab import MIB, Lab, ask_web

CHANNELS = ("syslog;association;ordinary;counted", "syslog.urgent;request;urgent")


def fields(number: int) -> bytes:
    """A line whose structured data is 3,000 fields without values."""
    data = " ".join(f'{number}.{one}=""' for one in range(3000))
    return batch.encode([(6, f"<14>1 - h shop {number} log [x@1 {data}] ", time.time(), "many fields", None)])


def wide(number: int) -> bytes:
    """A line of which one character makes four bytes of each."""
    text = f"{number} wide \U0001f600" + "x" * 200_000
    return batch.encode([(6, "<14>1 - h shop 1 log - ", time.time(), text, None)])


def heads(number: int) -> bytes:
    """One line, and a thousand beginnings of lines that no line has."""
    each = [b"<14>1 - h shop %d.%d log - " % (number, one) for one in range(1000)]
    columns = struct.pack(">IHQQIH", 1, len(each), 1_700_000_000_000_000, 0, 4, 0)
    return columns + struct.pack(f">{len(each)}I", *map(len, each)) + b"".join(each) + b"text"


@pytest.mark.parametrize("shape", [fields, wide, heads])
def test_lines_cost_what_the_feed_may_have(lab: Lab, shape: object) -> None:
    """The feed counted 258 bytes for an entry that kept 0.72 MB: 926 MB."""
    assert callable(shape)

    async def attack() -> None:
        fleet = lab.application()
        web = lab.start_web(fleet, plugins={"syslog": {}})
        app = await fleet.next()
        app.settle(channels=CHANNELS)
        await app.comes(RecordType.SETTINGS)
        before = web.resident()
        for number in range(400):
            app.item(shape(number))
        answer = asyncio.create_task(ask_web(web))
        (begun, *_) = await app.comes(RecordType.BEGIN_REQUEST)
        app.answer(begun.id, begun.generation)
        assert b"hello" in await answer
        await web.grown_since(before, 28 * MIB, "400 items")
        assert (await web.feed())[-1]["message"]

    lab.run(attack)

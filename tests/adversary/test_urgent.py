"""An application whose urgent lines cost the web side as much as it can make them cost: that is its own affair."""

from __future__ import annotations

import re
from typing import Any

from fcgi_core.protocol.records import RecordType
from tests.adversary.lab import Lab, Victim, ask_web, until
from tests.protocol.helpers import control

CHANNELS = (
    "syslog;association;ordinary;counted",
    "syslog.urgent;request;urgent",
    "syslog.process.urgent;association;urgent",
)
ITEMS = 14
FIELDS = 110_000


def line(number: int) -> bytes:
    """0.9 MB of structured data."""
    data = " ".join(f'{field}=""' for field in range(FIELDS))
    return f"<9>1 - h shop {number} log [x@1 {data}] urgent {number}".encode()


def refused(web: Victim) -> int:
    """Items of which the web side's log says that they were none."""
    return sum(map(int, re.findall(r"(\d+) items were not RFC 5424 messages", web.text)))


async def syslog(web: Victim) -> dict[str, Any]:
    (found,) = [plugin for plugin in (await web.status())["plugins"] if plugin["name"] == "syslog"]
    return dict(found)


def test_the_plugin_is_not_set_aside_for_all(lab: Lab) -> None:
    """14 items, and for a minute no application's lines were written."""

    async def attack() -> None:
        hostile = lab.application()
        app = lab.start_app("tests.adversary.applications:says", plugins={"syslog": {}})
        web = lab.start_web(app, hostile, plugins={"syslog": {}})
        end = await hostile.next()
        end.settle(channels=CHANNELS)
        await end.comes(RecordType.SETTINGS)
        end.tell(control(RecordType.DRAIN))  # so that it gets no request
        await until(lambda: "takes no new requests" in web.text, "it is drained", web)
        before = web.cpu()
        for number in range(ITEMS):
            item = line(number)
            assert 900_000 < len(item) < 1 << 20
            end.item(item, channel=2)
        await until(lambda: refused(web) >= ITEMS or "is set aside for this plugin" in web.text, "the items come", web)
        assert b"hello" in await ask_web(web)
        await web.feeds("here")
        plugin = await syslog(web)
        assert plugin["state"] == "running"
        assert "plugin syslog is set aside" not in web.text
        print(f"{ITEMS} items: {web.cpu() - before:.2f} s of processor time, {plugin['hooks']}")

    lab.run(attack)

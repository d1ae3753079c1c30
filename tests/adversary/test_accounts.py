"""What one peer makes a process hold on all its associations: messages before SETTINGS, and items without an end."""

from __future__ import annotations

from fcgi_core.protocol.connection import MAX_EARLY, MAX_HELD_OF_PEER
from fcgi_core.protocol.records import RecordType
from fcgi_core.sctp.carrier import Message
from tests.adversary.lab import MIB, Lab, until
from tests.protocol.helpers import message

MANY = 100


def test_messages_before_settings_have_a_bound_for_all_associations_of_a_host(lab: Lab) -> None:
    """900 KB on each of a hundred associations, which do not say who they are."""

    async def attack() -> None:
        app = lab.start_app(sctp={"max_associations_per_address": 10 * MANY})  # or those would give way to each other
        await lab.is_served(app)
        before = app.resident()
        size = MAX_EARLY * 9 // 10 // 8000
        for turn in range(2):  # what was held for those that are gone is free for others
            ends = [await lab.web_side(app, settle=False) for _ in range(MANY)]
            for end in ends:
                end.send([Message(2, bytes(8000)) for _ in range(size)])
            await until(lambda ends=ends: sum(bool(end.down) for end in ends) >= MANY // 10, "some are given up", app)
            assert "of this peer hold more than" in await next(end for end in ends if end.down).reason()
            for end in ends:
                if not end.down:
                    end.up.abort()
            assert app.resident() - before < MAX_HELD_OF_PEER + 24 * MIB, turn
        await lab.is_served(app)

    lab.run(attack)


def test_items_without_an_end_have_a_bound_for_all_associations_of_a_member(lab: Lab) -> None:
    """An application with workers has several associations; each holds 15 items of a megabyte."""

    async def attack() -> None:
        fleet = lab.application()
        web = lab.start_web(fleet, plugins={"syslog": {}})
        app = await fleet.next()
        app.settle(channels=("syslog;association;ordinary;counted",))
        await app.comes(RecordType.SETTINGS)
        before = web.resident()
        for stream in range(2, 80):
            for _ in range(60):
                app.tell(message(RecordType.FEEDBACK_MORE, 0, bytes(16_000), stream=stream))
        assert "hold more than" in await app.reason() or "unfinished" in await app.reason()
        await web.grown_since(before, 24 * MIB, "items without an end")

    lab.run(attack)

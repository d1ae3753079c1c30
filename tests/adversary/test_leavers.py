"""A web side that sends much, finishes nothing and leaves: what the application held for it is given back."""

from __future__ import annotations

import asyncio

from fcgi_core.protocol.connection import MAX_EARLY
from fcgi_core.protocol.records import RecordType, begin_request, record
from fcgi_core.sctp.carrier import Message
from tests.adversary.lab import MIB, Lab, Victim, ask_web, until
from tests.system.stack import PATIENCE

MANY = 40
TRIMS = "tests.adversary.applications:trims"
REQUESTS = 900


async def gives_back(lab: Lab, app: Victim, before: int, most: float) -> float:
    """Wait until the application holds at most so many MiB more than before, without what malloc has free; how many."""
    grown = 0.0
    try:
        async with asyncio.timeout(PATIENCE):
            while (grown := (app.resident() - before) / MIB) > most:
                await lab.is_served(app)  # which trims
                await asyncio.sleep(0.1)  # one address may not come as often as it likes
    except TimeoutError:
        raise AssertionError(f"{grown:.1f} MiB are held for peers that are gone, {most} are allowed") from None
    return grown


def test_memory_of_messages_before_settings_is_given_back(lab: Lab) -> None:
    """40 associations, 4 MB each before any SETTINGS: 53 to 217 MB, for good."""

    async def attack() -> None:
        app = lab.start_app(TRIMS)
        await lab.is_served(app)
        before = app.resident()
        for size in (900_000, 4_000_000):  # less than what one association may send, and more
            ends = [await lab.web_side(app, settle=False) for _ in range(MANY)]
            for end in ends:
                end.send([Message(2, bytes(8000)) for _ in range(size // 8000)])
            if size < MAX_EARLY:
                await until(lambda: app.resident() - before > 24 * MIB, "the messages are held", app)
            else:
                for end in ends:
                    assert "SETTINGS" in await end.reason()
            held = (app.resident() - before) / MIB
            for end in ends:
                if not end.down:
                    end.up.abort()
            grown = await gives_back(lab, app, before, 8)
            print(f"{size} bytes on each: {held:.1f} MiB with the peers, {grown:.1f} without")

    lab.run(attack)


def test_memory_of_unfinished_params_is_given_back(lab: Lab) -> None:
    """900 requests whose PARAMS have no end: 53 to 977 MB, for good."""

    async def attack() -> None:
        app = lab.start_app(TRIMS)
        await lab.is_served(app)
        before = app.resident()
        web = await lab.web_side(app)
        for number in range(1, REQUESTS + 1):
            web.tell(Message(2, begin_request(number, 1, 0)))
            web.tell(*[Message(2, record(RecordType.PARAMS, number, bytes(15_000))) for _ in range(4)])
        refused = await web.comes(RecordType.END_REQUEST, REQUESTS // 2)
        assert {one.content[4] for one in refused} == {2}, "OVERLOADED"
        held = (app.resident() - before) / MIB
        assert 8 < held < 40
        web.up.abort()
        await app.reads_its_log_until("aborted the association")
        grown = await gives_back(lab, app, before, 6)
        print(f"{REQUESTS} requests: {held:.1f} MiB with the peer, {grown:.1f} without")

    lab.run(attack)


def test_a_peer_that_never_answers_drain_does_not_hold_a_stop(lab: Lab) -> None:
    """With an hour of grace: neither who has nothing under way, nor who has never said SETTINGS."""

    async def attack() -> None:
        app = lab.start_app(grace=3600)
        silent = await lab.web_side(app, settle=False)
        web = await lab.web_side(app)
        web.request()
        await web.comes(RecordType.END_REQUEST)
        stopping = asyncio.create_task(lab.stop(app))
        await web.comes(RecordType.DRAIN)
        await stopping
        assert "given up" not in app.text
        await web.end()
        await silent.end()

    lab.run(attack)


def test_either_side_may_be_killed_with_several_associations(lab: Lab) -> None:
    async def attack() -> None:
        app = lab.start_app()
        back_end = {"address": app.address, "associations": 4}
        web = lab.start_web(back_end)
        await web.reads_its_log_until("the 4. of the process")
        asked = [asyncio.create_task(ask_web(web)) for _ in range(40)]
        app.kill()
        lab.victims.remove(app)
        await asyncio.gather(*asked)
        await web.reads_its_log_until("is down", 4)
        again = lab.start_app(name="again", listen=app.address)
        await web.reads_its_log_until("the 4. of the process", 2)
        assert b"hello" in await ask_web(web)
        web.kill()
        lab.victims.remove(web)
        web = lab.start_web(back_end, name="web2")
        await web.reads_its_log_until("the 4. of the process")
        assert b"hello" in await ask_web(web)
        await again.reads_its_log_until("is down", 4)

    lab.run(attack)

"""Several associations with one process of a web side: how many there may be, and what they share. On the memory
carrier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fcgi_core.app.service import AppService
from fcgi_core.protocol.records import ProtocolStatus
from fcgi_core.protocol.settings import Settings
from fcgi_core.sctp.memory import MemoryCarrier
from tests.app.harness import ADDRESS, LiveNetwork, Web, settle, until
from tests.web.harness import Application, hang


async def serving(body: Callable[[AppService, MemoryCarrier], Awaitable[None]], most: int = 2) -> None:
    network = LiveNetwork()
    service = AppService(
        Application(hang),
        network.carrier(),
        [ADDRESS],
        settings=Settings(max_requests=3),
        max_associations_per_web_side=most,
    )
    await service.start()
    try:
        await body(service, network.carrier())
    finally:
        await service.stop(0)


async def connect(carrier: MemoryCarrier, number: int, instance: str = "w", **named: object) -> Web:
    given = {"instance": instance, "association": number, "max_associations": 6, **named}
    web = Web(Settings(**given))  # type: ignore[arg-type]
    carrier.connect(ADDRESS, web.driver)
    await web.ready.wait()
    await settle()
    return web


def test_more_than_may_be_are_refused_with_the_reason_and_counted() -> None:
    async def body(service: AppService, carrier: MemoryCarrier) -> None:
        first, second = await connect(carrier, 1), await connect(carrier, 2)
        assert first.connection.peer_settings is not None
        assert first.connection.peer_settings.max_associations == 2
        third = await connect(carrier, 3)
        await until(lambda: third.down is not None, "it is refused")
        assert "this process has 2 associations already, as many as FCGI_SCTP_MAX_ASSOCS" in str(third.down)
        assert (first.down, second.down, service.refused) == (None, None, 1)
        other = await connect(carrier, 1, "another process")
        assert other.down is None

    asyncio.run(serving(body))


def test_further_ones_leave_places_for_processes_that_have_none() -> None:
    """Or workers that have many would keep out the next one, which could serve nothing."""

    async def body(service: AppService, carrier: MemoryCarrier) -> None:
        service._associations.admission.most_per_address = 8
        webs = [await connect(carrier, number, "many") for number in range(1, 8)]
        await until(lambda: webs[-1].down is not None, "the last is refused")
        assert "there are 7 of 8 associations with this address: the others are for processes" in str(webs[-1].down)
        assert [web.down for web in webs[:-1]] == [None] * 6
        others = [await connect(carrier, 1, f"other {number}") for number in range(2)]
        assert [web.down for web in others] == [None] * 2
        assert service.refused == 1

    asyncio.run(serving(body, 16))


def test_requests_are_counted_over_all_of_them() -> None:
    async def body(service: AppService, carrier: MemoryCarrier) -> None:
        first, second = await connect(carrier, 1), await connect(carrier, 2)
        calls = [first.call(), first.call(), second.call()]
        await settle()
        refused = second.call()
        await refused.over()
        assert refused.status is ProtocolStatus.OVERLOADED
        assert not any(call.end for call in calls)
        # and those of one that is gone do not
        assert first.driver.association is not None
        first.driver.association.abort()
        await until(lambda: len(service.supervisor.links) == 1, "it is gone")
        second.call()
        await until(lambda: len(service.supervisor.links[0].connection.requests) == 2, "it is taken")

    asyncio.run(serving(body))


def test_those_that_the_web_side_has_given_up_make_room() -> None:
    async def body(service: AppService, carrier: MemoryCarrier) -> None:
        first, second = await connect(carrier, 1), await connect(carrier, 2)
        first.call()
        third = await connect(carrier, 3, given_up=(1,))
        await until(lambda: first.down is not None, "it is ended")
        assert "given it up" in str(first.down)
        assert (second.down, third.down, service.refused) == (None, None, 0)
        # only by the same process
        other = await connect(carrier, 1, "another process", given_up=(2, 3))
        await settle()
        assert (second.down, third.down, other.down) == (None, None, None)

    asyncio.run(serving(body))


def test_a_web_side_that_does_not_know_of_this_has_each_on_its_own() -> None:
    async def body(service: AppService, carrier: MemoryCarrier) -> None:
        webs = [await connect(carrier, number, max_associations=1) for number in range(4)]
        assert [web.down for web in webs] == [None] * 4
        for web in webs:
            for _ in range(3):
                web.call()
        await until(lambda: sum(len(one.connection.requests) for one in service.supervisor.links) == 12, "all came")
        assert all(link.driver.watch is None for link in service.supervisor.links)

    asyncio.run(serving(body))


def test_nothing_is_kept_of_a_web_side_that_is_gone() -> None:
    async def body(service: AppService, carrier: MemoryCarrier) -> None:
        for web in [await connect(carrier, number) for number in (1, 2)]:
            web.driver.shutdown()
        await until(lambda: not service.supervisor.links, "they are gone")
        assert not service._associations._by_web_side

    asyncio.run(serving(body))

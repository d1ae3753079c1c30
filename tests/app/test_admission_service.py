"""Associations of an application with web sides that are many, silent or broken. On the memory carrier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fcgi_core.app.service import AppService
from fcgi_core.common.operator_log import AT_ONCE
from fcgi_core.protocol.outbox import PPID
from fcgi_core.sctp.carrier import Message
from tests.app.harness import ADDRESS, LiveNetwork, Web, settle, until
from tests.protocol.test_given_back import Stranger
from tests.web.harness import Application, answer


async def serving(body: Callable[[LiveNetwork, AppService], Awaitable[None]], most: int = 100, per: int = 4) -> None:
    network = LiveNetwork()
    service = AppService(
        Application(answer(b"hello")),
        network.carrier(),
        [ADDRESS],
        max_associations=most,
        max_associations_per_address=per,
    )
    await service.start()
    try:
        await body(network, service)
    finally:
        await service.stop(0)


def test_silent_associations_are_ended_for_new_ones() -> None:
    async def body(network: LiveNetwork, service: AppService) -> None:
        silent = [Stranger() for _ in range(12)]
        carrier = network.carrier()
        for one in silent:
            carrier.connect(ADDRESS, one)
            await settle()
        assert len(service._associations) == 4
        web = Web()
        carrier.connect(ADDRESS, web.driver)
        await web.ready.wait()
        assert (await web.get("/"))[1] == b"hello"
        await until(lambda: sum(one.down.is_set() for one in silent) == 9, "those that gave way are told")

    asyncio.run(serving(body))


def test_an_association_with_settings_is_not_ended_for_others(caplog: pytest.LogCaptureFixture) -> None:
    async def body(network: LiveNetwork, service: AppService) -> None:
        carrier = network.carrier()
        webs = [Web() for _ in range(4)]
        for web in webs:
            carrier.connect(ADDRESS, web.driver)
            await web.ready.wait()
        for _ in range(10):
            late = Stranger()
            carrier.connect(ADDRESS, late)
            await late.down.wait()
        assert [web.down for web in webs] == [None] * 4
        refused = [one for one in caplog.records if "refused" in one.getMessage()]
        assert len(refused) == AT_ONCE
        assert "there are 4 associations with this address already" in refused[0].getMessage()

    asyncio.run(serving(body))
    assert f"{10 - AT_ONCE} more like this within 0 s: association from memory:" in caplog.text


def test_web_sides_that_fail_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def body(network: LiveNetwork, service: AppService) -> None:
        carrier = network.carrier()
        for _ in range(20):
            broken = Stranger(Message(1, b"GET / HTTP/1.1", PPID))
            carrier.connect(ADDRESS, broken)
            await broken.down.wait()
            await until(lambda: not service._associations, "the association ends")
        assert len([one for one in caplog.records if "did not come up" in one.getMessage()]) == AT_ONCE

    asyncio.run(serving(body))
    assert f"{20 - AT_ONCE} more like this within 0 s: association with memory:" in caplog.text

"""Applications behind a name of a real DNS."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fcgi_core.web.names import Answer, Service
from fcgi_core.web.resolver import NEGATIVE_TTL, DnsResolver
from tests.system.dns import DNSMASQ, TTL, NamedStack, NameServer
from tests.system.load import Load
from tests.system.stack import wait_until
from tests.system.test_members import sent, states
from tests.system.test_succession import Successive, listener

pytestmark = pytest.mark.skipif(DNSMASQ is None, reason="dnsmasq is not installed (Debian: dnsmasq-base)")


@pytest.fixture
def three(start: Callable[..., NamedStack]) -> NamedStack:
    return start(kind=NamedStack, endpoints=3)


def hosts(stack: NamedStack) -> list[str]:
    return sorted(address.partition(":")[0] for address, state in states(stack).items() if state == "up")


def test_an_application_comes_and_goes_by_its_name_and_no_request_is_lost(three: NamedStack) -> None:
    names = three.names
    everyone = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    wait_until(lambda: hosts(three) == everyone, "all are up")
    for _ in range(90):
        assert three.ask("/hello").status == 200
    counts = [one["requests"] for one in three.status()["upstreams"]]
    assert all(0.28 < count / sum(counts) < 0.38 for count in counts), counts
    with Load(three) as load:
        wait_until(lambda: load.seen[200] > 50, "requests are answered")
        names.says("shop.internal", everyone[:2])
        wait_until(lambda: hosts(three) == everyone[:2] and len(states(three)) == 2, "the third one is gone")
        assert three.apps[2].stop() == 0
        three.apps[2] = three.start_app(2)
        three.apps[2].says("ready")
        names.says("shop.internal", everyone)
        wait_until(lambda: hosts(three) == everyone and sent(three, three.addresses[2]), "the third one is used")

        assert names.program.stop() == 0
        three.web.says("cannot look up shop.internal")
        answered = load.seen[200]
        wait_until(lambda: load.seen[200] > answered + 300, "requests are answered without the DNS")
        assert hosts(three) == everyone
        names.start()
        three.web.says("shop.internal can be looked up again after")
    assert set(load.seen) == {200}


def test_srv_records(start: Callable[..., NamedStack]) -> None:
    stack = start(kind=NamedStack, endpoints=3)
    _, ports = stack.addresses[0].split(":")
    port, udp_port = ports.split("/")
    assert stack.names.program.stop() == 0
    for number, priority, weight in ((1, 10, 1), (2, 10, 3), (3, 20, 1)):
        where = (f"app{number}.internal", int(port), priority, weight, f"127.0.0.{number}")
        stack.names.has_service("_fcgi-sctp._udp.shop.internal", *where)
    stack.names.start()
    web = {**stack._web, "connect": {"srv": f"_fcgi-sctp._udp.shop.internal/{udp_port}"}}
    stack.write("web", {"web": web, **stack._common})
    stack.web.send(signal.SIGHUP)
    first, second, third = stack.addresses

    def weights() -> list[tuple[str, float]]:
        return sorted((one["address"], one["weight"]) for one in stack.status()["upstreams"] if one["state"] == "up")

    wait_until(lambda: weights() == [(first, 0.5), (second, 1.5), (third, 1.0)], "all are up, by their records")
    before = [sent(stack, one) for one in stack.addresses]
    for _ in range(40):
        assert stack.ask("/hello").status == 200
    used = [sent(stack, one) - count for one, count in zip(stack.addresses, before, strict=True)]
    assert used == [10, 30, 0]
    assert stack.apps[0].stop() == 0
    assert stack.apps[1].stop() == 0
    stack.web.says("requests go to the 2. priority of applications: none of a better priority is there")
    assert stack.ask("/hello").status == 200
    assert sent(stack, third) == 1


class Named(NamedStack, Successive):
    pass


def test_another_process_takes_the_place_while_the_dns_is_away(start: Callable[..., Named]) -> None:
    stack = start(kind=Named, endpoints=2)
    everyone = ["127.0.0.1", "127.0.0.2"]
    wait_until(lambda: hosts(stack) == everyone, "both are up")
    with Load(stack) as load:
        assert stack.names.program.stop() == 0
        stack.reload()
        wait_until(lambda: listener(stack.folder / "web.admin") == stack.successor, "it answers")
        assert hosts(stack) == everyone
        answered = load.seen[200]
        wait_until(lambda: load.seen[200] > answered + 50, "requests are answered")
        stack.names.start()
    assert set(load.seen) == {200}


def test_a_name_that_moves_to_other_addresses_loses_no_request(three: NamedStack) -> None:
    three.names.says("shop.internal", ["127.0.0.1"])
    wait_until(lambda: hosts(three) == ["127.0.0.1"], "one is up")
    with Load(three) as load:
        for moved in (["127.0.0.2", "127.0.0.3"], ["127.0.0.1"], ["127.0.0.3"]):
            three.names.says("shop.internal", moved)
            wait_until(lambda moved=moved: hosts(three) == moved and len(states(three)) == len(moved), "it moved")  # type: ignore[misc]
            answered = load.seen[200]
            wait_until(lambda answered=answered: load.seen[200] > answered + 30, "requests are answered")  # type: ignore[misc]
    assert set(load.seen) == {200}


def test_what_the_resolver_makes_of_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcgi_core.web.resolver.PATIENCE", 1.0)
    tmp_path.chmod(0o755)
    many = [f"10.0.{number >> 8}.{number & 255}" for number in range(500)]
    names = NameServer(tmp_path)
    names.says("many.internal", many)
    names.has_service("_a._udp.shop.internal", "app.internal", 9000, 10, 5, "10.1.0.1")
    names.start()
    resolver = DnsResolver([("127.0.0.1", names.port)])

    async def ask() -> None:
        found = await resolver.addresses("many.internal", "A")
        assert sorted(found.hosts) == sorted(many), "over TCP: it is too long for UDP"
        assert found.ttl == TTL
        assert await resolver.addresses("many.internal", "AAAA") == Answer((), NEGATIVE_TTL)
        assert await resolver.addresses("no.internal", "A") == Answer((), NEGATIVE_TTL)
        services, _ = await resolver.services("_a._udp.shop.internal")
        assert services == [Service(10, 5, 9000, "app.internal.", ("10.1.0.1",))], "the address comes along"
        assert await resolver.services("_b._udp.shop.internal") == ((), NEGATIVE_TTL)
        assert names.program.stop() == 0
        for question in (resolver.addresses("many.internal", "A"), resolver.services("_a._udp.shop.internal")):
            with pytest.raises(OSError, match="lifetime expired"):
                await question
        with pytest.raises(OSError, match="label"):
            await resolver.addresses("a" * 70 + ".internal", "A")

    try:
        asyncio.run(ask())
    finally:
        names.program.kill()


def test_the_resolver_reads_resolv_conf_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr("fcgi_core.web.resolver.RESOLV_CONF", str(path))
    resolver = DnsResolver()

    async def ask() -> None:
        with pytest.raises(OSError, match="No such file"):
            await resolver.addresses("shop.internal", "A")
        path.write_text("nameserver 192.0.2.1\n")
        made = resolver._made()
        assert made.nameservers == ["192.0.2.1"]
        assert resolver._made() is made
        path.write_text("nameserver 192.0.2.2\n")
        os.utime(path, (1, 1))
        assert resolver._made().nameservers == ["192.0.2.2"]

    asyncio.run(ask())

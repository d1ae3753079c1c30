"""What many applications cost a web side at rest: the processor time of a real `WebService` with so many members.

    .venv/bin/python -m bench.members --members 1000 --subset 20
    .venv/bin/python -m bench.members --away          # nothing listens at their addresses

Members are found by SRV records, with a TTL of a second, in a name server that answers at once. They are on the memory
carrier, unless they are away: what is left is the web side's own. `bench.associations` has what SCTP's heartbeats cost.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.sctp import open_carrier
from fcgi_core.sctp.carrier import DEFAULT_UDP_PORT, Address, Carrier, CarrierOptions
from fcgi_core.web.members import NameOptions
from fcgi_core.web.names import Answer, Family, Names, Service, Watched
from fcgi_core.web.service import WebOptions, WebService
from tests.app.harness import LiveNetwork

PORT = 9000
TTL = 1.0
AWAY_BEFORE = 240.0
"""Seconds until the pauses between attempts have grown."""


class Application:
    async def start(self, service: AppService) -> None: ...

    def request(self, exchange: AppExchange) -> None:
        exchange.end()

    async def stop(self) -> None: ...


class Dns:
    def __init__(self, ports: Sequence[int]) -> None:
        self.services_found = [Service(1, 1, port, "shop.internal.") for port in ports]

    async def addresses(self, name: str, family: Family) -> Answer:
        return Answer(("127.0.0.1",) if family == "A" else (), TTL)

    async def services(self, name: str) -> tuple[Sequence[Service], float]:
        return self.services_found, TTL


async def web(carrier: Carrier, ports: Sequence[int], subset: int | None, rest: float, away: bool = False) -> None:
    loop = asyncio.get_running_loop()
    service = WebService(
        carrier,
        [],
        [NameOptions(Watched("srv", "_fcgi-sctp._udp.shop.internal"), DEFAULT_UDP_PORT)],
        names=Names(Dns(ports), loop),
        options=WebOptions(subset=subset, identity="web1"),
    )
    began = time.perf_counter()
    await service.start()
    wanted = 0 if away else min(subset or len(ports), len(ports))
    while sum(one.state == "up" for one in service.upstreams) < wanted:
        await asyncio.sleep(0.05)
    print(f"{wanted} of {len(ports)} applications are up after {time.perf_counter() - began:.1f} s")
    await asyncio.sleep(AWAY_BEFORE if away else 2)
    for _ in range(3):
        before = time.process_time()
        await asyncio.sleep(rest)
        print(f"at rest: {(time.process_time() - before) / rest * 100:.2f} % of a core")
    await service.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--subset", type=int)
    parser.add_argument("--away", action="store_true", help="none of them is there")
    parser.add_argument("--rest", type=float, default=10.0, help="seconds of a look, of which there are three")
    args = parser.parse_args()
    ports = range(PORT, PORT + args.members)
    if args.away:
        asyncio.run(measure_away(ports, args.subset, args.rest))
    else:
        asyncio.run(measure(ports, args.subset, args.rest))


async def measure_away(ports: Sequence[int], subset: int | None, rest: float) -> None:
    await web(open_carrier("userspace", CarrierOptions()), ports, subset, rest, away=True)


async def measure(ports: Sequence[int], subset: int | None, rest: float) -> None:
    network = LiveNetwork()
    services = [AppService(Application(), network.carrier(), [Address(("127.0.0.1",), port)]) for port in ports]
    for service in services:
        await service.start()
    await web(network.carrier(), ports, subset, rest)
    for service in services:
        await service.stop(0)


if __name__ == "__main__":
    main()

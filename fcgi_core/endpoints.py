"""Where applications are: host names looked up, and the addresses of the workers of one application.

Worker k of an application listens on the configured port + k and UDP port + k. Each tells in its SETTINGS of all, so
that the web side is configured with one address and finds the others.
"""

from __future__ import annotations

import asyncio
import socket

from .sctp.carrier import Address, CarrierError

__all__ = ["advertised", "advertisement", "host_of", "resolve", "shifted"]

WORKERS_SETTING = "FCGI_SCTP_WORKERS"
"""In SETTINGS: ``PORT/UDPPORT`` of each worker, with commas."""
MAX_WORKERS = 1024


async def resolve(address: Address, attempt: int = 0) -> Address:
    """`address` with IP addresses in the place of names. Of a name with several addresses, attempt after attempt takes
    the next. CarrierError if a name cannot be found."""
    loop = asyncio.get_running_loop()
    hosts = []
    for host in address.hosts:
        try:
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise CarrierError(f"{address}: host {host!r} cannot be found: {error.strerror}") from None
        hosts.append(str(found[attempt % len(found)][4][0]))
    return address._replace(hosts=tuple(hosts))


def host_of(peer: str) -> str:
    """The host of a peer as carriers name it, ``HOST:PORT``."""
    return peer.rpartition(":")[0]


def shifted(address: Address, worker: int) -> Address:
    """Where worker number `worker` listens."""
    return address._replace(port=address.port + worker, udp_port=address.udp_port + worker)


def advertisement(address: Address, count: int) -> dict[str, str]:
    """What SETTINGS say of `count` workers that begin at `address`; nothing for one."""
    if count < 2:
        return {}
    every = (shifted(address, worker) for worker in range(count))
    return {WORKERS_SETTING: ",".join(f"{one.port}/{one.udp_port}" for one in every)}


def advertised(address: Address, others: dict[str, str]) -> list[Address]:
    """The workers' addresses that a peer at `address` told of in `others`; what cannot be read is left out."""
    found = []
    for text in others.get(WORKERS_SETTING, "").split(",")[:MAX_WORKERS]:
        ports = [int(one) for one in text.split("/") if one.isascii() and one.isdigit() and len(one) < 6]
        if len(ports) == 2 and all(1 <= port <= 65535 for port in ports):
            found.append(address._replace(port=ports[0], udp_port=ports[1]))
    return found

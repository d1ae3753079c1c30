"""Where applications are: host names looked up, and the addresses of the workers of one application.

Worker k of an application listens on the configured port + k and UDP port + k. Each tells in its SETTINGS of all, so
that the web side is configured with one address and finds the others. Only what the configured one tells counts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from .addresses import host_of
from .carrier import Address, CarrierError

__all__ = ["advertised", "advertisement", "peer_host", "resolve", "shifted"]

WORKERS_SETTING = "FCGI_SCTP_WORKERS"
"""In SETTINGS: ``PORT/UDPPORT`` of each worker, with commas."""


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
        hosts.append(host_of(found[attempt % len(found)][4]))
    return address._replace(hosts=tuple(hosts))


def peer_host(peer: str) -> str:
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


def advertised(address: Address, others: Mapping[str, str], most: int) -> tuple[list[Address], str]:
    """Where the processes of an application listen that is configured at `address`, by what it tells in `others` of its
    SETTINGS; `most` at most. And why some of what it tells is left out, '' if nothing is.

    Worker k listens at the ports of `address` plus k, whatever the application says: it cannot send the web side to any
    other port. If it tells of none it is one process.
    """
    text = others.get(WORKERS_SETTING)
    if not text:
        return [address], ""
    told = text.split(",")
    own = f"{address.port}/{address.udp_port}"
    told = told[told.index(own) if own in told else 0 :]  # it may be known by other ports than those it listens at
    found = [address]
    base = _ports(told[0])
    for number, part in enumerate(told):
        worker = shifted(address, number)
        follows = base and _ports(part) == [port + number for port in base]
        if not follows or max(worker.port, worker.udp_port) > 65535:
            return found, f"{part[:16]!r} is not where worker {number} of {address} listens"
        if number >= most:
            return found, f"it has {len(told)} workers and {most} are used: raise web.max_workers"
        if number:
            found.append(worker)
    return found, ""


def _ports(text: str) -> list[int]:
    """The numbers of ``PORT/UDPPORT``; none if it is something else."""
    parts = text.split("/")
    valid = len(parts) == 2 and all(one.isascii() and one.isdigit() and len(one) < 6 for one in parts)
    return [int(one) for one in parts] if valid else []

"""Addresses of applications: resolving host names, and finding the workers of one application.

Worker k of an application listens at the configured port + k and UDP port + k. The SETTINGS of each worker list all, so
the web side needs one address and finds the others. Only the list of the configured address counts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from .addresses import host_of
from .carrier import Address, CarrierError

__all__ = ["advertised", "advertisement", "peer_host", "resolve", "shifted"]

WORKERS_SETTING = "FCGI_SCTP_WORKERS"
"""In SETTINGS: ``PORT/UDPPORT`` of each worker, separated by commas."""


async def resolve(address: Address, attempt: int = 0) -> Address:
    """`address` with IP addresses instead of names; CarrierError if a name cannot be resolved.

    If a name has several addresses, each attempt uses the next one.
    """
    loop = asyncio.get_running_loop()
    hosts = []
    for host in address.hosts:
        try:
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise CarrierError(f"{address}: cannot resolve host {host!r}: {error.strerror}") from None
        hosts.append(host_of(found[attempt % len(found)][4]))
    return address._replace(hosts=tuple(hosts))


def peer_host(peer: str) -> str:
    """The host in the name that a carrier gives a peer, ``HOST:PORT``."""
    return peer.rpartition(":")[0]


def shifted(address: Address, worker: int) -> Address:
    """The address of worker number `worker`."""
    return address._replace(port=address.port + worker, udp_port=address.udp_port + worker)


def advertisement(address: Address, count: int) -> dict[str, str]:
    """The part of SETTINGS that lists `count` workers from `address` on; empty for one worker."""
    if count < 2:
        return {}
    every = (shifted(address, worker) for worker in range(count))
    return {WORKERS_SETTING: ",".join(f"{one.port}/{one.udp_port}" for one in every)}


def advertised(address: Address, others: Mapping[str, str], most: int) -> tuple[list[Address], str]:
    """The addresses of an application's workers, `most` at most, by `others` of the SETTINGS from `address`; and why
    some that it listed are left out, '' if none are.

    Worker k listens at the ports of `address` plus k, whatever the application says: it cannot direct the web side to
    other ports. Without a list the application is one process.
    """
    text = others.get(WORKERS_SETTING)
    if not text:
        return [address], ""
    listed = text.split(",")
    own = f"{address.port}/{address.udp_port}"
    listed = listed[listed.index(own) if own in listed else 0 :]  # behind a NAT it listens at other ports than ours
    found = [address]
    base = _ports(listed[0])
    for number, part in enumerate(listed):
        worker = shifted(address, number)
        follows = base and _ports(part) == [port + number for port in base]
        if not follows or max(worker.port, worker.udp_port) > 65535:
            return found, f"invalid ports {part[:16]!r} of worker {number} of {address}"
        if number >= most:
            return found, f"it has {len(listed)} workers and {most} are used: raise web.max_workers"
        if number:
            found.append(worker)
    return found, ""


def _ports(text: str) -> list[int]:
    """The numbers of ``PORT/UDPPORT``; empty if `text` is something else."""
    parts = text.split("/")
    valid = len(parts) == 2 and all(one.isascii() and one.isdigit() and len(one) < 6 for one in parts)
    return [int(one) for one in parts] if valid else []

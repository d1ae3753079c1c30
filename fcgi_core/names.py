"""Host names looked up, without blocking the loop."""

from __future__ import annotations

import asyncio
import socket

from .sctp.carrier import Address, CarrierError

__all__ = ["resolve"]


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

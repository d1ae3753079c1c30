"""IP addresses for sockets, with the zone of a link-local address (RFC 4007 section 11)."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

__all__ = ["host_of", "is_loopback", "socket_address", "zone_name"]


def socket_address(host: str, port: int) -> tuple[Any, ...]:
    """The socket address of IP address `host` with its zone, which (host, port) would lose; OSError if `host` is not an
    IP address or its zone does not exist here."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0][4]


def host_of(name: tuple[Any, ...]) -> str:
    """The IP address in a socket address, with its zone; the inverse of `socket_address`."""
    host = str(name[0])
    return f"{host}%{zone_name(name[3])}" if len(name) == 4 and name[3] and "%" not in host else host


def zone_name(scope: int) -> str:
    """The name of the interface with this number; the number if there is no such interface."""
    try:
        return socket.if_indextoname(scope)
    except OSError:
        return str(scope)


def is_loopback(host: str) -> bool:
    return ip_address(host.partition("%")[0]).is_loopback

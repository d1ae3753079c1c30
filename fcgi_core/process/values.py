"""The values of the configuration as one writes them: bytes, seconds, addresses, permissions, networks.

Each is a type for a model's field. Its error says what would be right; the field's path and the value come before it.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from ..app.fastcgi.pool import MAX_PATH, parse_address
from ..sctp.carrier import DEFAULT_UDP_PORT, Address

__all__ = [
    "ONE_OR_MORE",
    "DnsName",
    "FastcgiAddress",
    "NameServers",
    "Network",
    "Permissions",
    "SctpAddress",
    "SctpAddresses",
    "Seconds",
    "Size",
    "ServerNames",
    "SrvName",
    "UnixPath",
    "WebAddresses",
    "name_server",
    "srv_name",
]

_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIMES = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_SECONDS = 10 * 365 * 86400
"""Ten years: longer than a process runs, and short enough for every clock and timer."""
MAX_BYTES = 1 << 48
"""256 TiB: more memory than a machine has."""


def _size(value: object) -> object:
    """Return the bytes that ``64K``, ``1M`` or a number says."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,20})\s*([kmg]?)(i?b)?", value.strip().lower(), re.ASCII)
    if match is None:
        raise ValueError("write bytes as a number, with K, M or G after it for more: 4096, 64K, 1M")
    return int(match[1]) * _BYTES[match[2]]


def _seconds(value: object) -> object:
    """Return the seconds that ``500ms``, ``10s``, ``5m`` or a number says."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?)\s*(ms|[smhd]?)", value.strip().lower(), re.ASCII)
    if match is None:
        raise ValueError("write seconds as a number, or with a unit: 500ms, 10s, 5m, 2h, 1d")
    return float(match[1]) * _TIMES[match[2]]


def _address(value: str) -> str:
    if not value.isprintable():
        raise ValueError("control characters are not allowed in an address")
    Address.parse(value)
    return value


def _dns_name(value: str) -> str:
    address = Address.parse(_address(value))
    if len(address.hosts) != 1 or address.is_numeric():
        raise ValueError("write the name of one host and a port: shop.internal:9000, or HOST:PORT/UDPPORT")
    return value


def srv_name(value: str) -> tuple[str, int]:
    """Return the name and the UDP port of ``_SERVICE._PROTOCOL.DOMAIN[/UDPPORT]``; ValueError."""
    name, slash, udp = value.partition("/")
    labels = name.split(".")
    service = len(labels) > 2 and all(one[:1] == "_" for one in labels[:2])
    port = int(udp) if udp.isascii() and udp.isdigit() and len(udp) < 6 else 0
    if not service or not re.fullmatch(r"[\w.-]{1,253}", name, re.ASCII) or (slash and not 1 <= port <= 65535):
        raise ValueError("write _SERVICE._PROTOCOL.DOMAIN, with /UDPPORT after it if it is not 9899")
    return name, port if slash else DEFAULT_UDP_PORT


def _srv_name(value: str) -> str:
    srv_name(value)
    return value


def name_server(value: str) -> tuple[str, int]:
    """Return the IP address and the port of a name server; ValueError."""
    try:
        return str(ip_address(value)), 53
    except ValueError:
        pass
    try:
        address = Address.parse(value)
    except ValueError:
        address = None
    if address is None or len(address.hosts) != 1 or not address.is_numeric() or "/" in value:
        raise ValueError("write the IP address of a name server, with :PORT after it if it is not 53")
    return address.hosts[0], address.port


def _name_server(value: str) -> str:
    name_server(value)
    return value


def _unix_path(value: str) -> str:
    """Return the path if a unix socket can have it; ValueError."""
    size = len(os.fsencode(value))
    if not size or size > MAX_PATH or "\0" in value:
        raise ValueError(f"the path of a unix socket has 1 to {MAX_PATH} bytes, and no NUL")
    return value


def _web_listen(value: str) -> str:
    if value.startswith("unix:"):
        if value == "unix:":
            raise ValueError("write unix:/PATH")
        return f"unix:{_unix_path(value.removeprefix('unix:'))}"
    if "/" in value:
        raise ValueError("write unix:/PATH, or HOST:PORT for TCP")
    try:
        return _address(value)
    except ValueError:
        raise ValueError("write unix:/PATH, or HOST:PORT for TCP (a port is a number from 1 to 65535)") from None


def _server_name(value: str) -> str:
    name = value.lower()
    if len(name) > 255 or not re.fullmatch(r"(\*\.)?[^\s*]+", name):
        raise ValueError("write a SERVER_NAME as the web server passes it, or *.DOMAIN for all names below a domain")
    return name


def _mode(value: object) -> object:
    """Return the permissions if they are octal and in quotes; without quotes YAML reads them as a number."""
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
        raise ValueError("write permissions in octal and in quotes: '0660' for owner and group, '0666' for all")
    return value


def _network(value: str) -> str:
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise ValueError("write an IPv4 or IPv6 network: 192.0.2.0/24, 2001:db8::/32, or one address") from None
    return value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _fastcgi_address(value: str) -> str:
    if isinstance(parse_address(value), tuple) and not value.isprintable():
        raise ValueError("control characters are not allowed in an address")
    return value


Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str), Field(le=MAX_BYTES)]
Seconds = Annotated[
    float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(le=MAX_SECONDS, allow_inf_nan=False)
]
UnixPath = Annotated[str, AfterValidator(_unix_path)]
SctpAddress = Annotated[str, AfterValidator(_address)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
SrvName = Annotated[str, AfterValidator(_srv_name)]
FastcgiAddress = Annotated[str, AfterValidator(_fastcgi_address)]
Network = Annotated[str, AfterValidator(_network)]
Permissions = Annotated[str | None, BeforeValidator(_mode, json_schema_input_type=str | None)]
ONE_OR_MORE = BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])
NameServers = Annotated[list[Annotated[str, AfterValidator(_name_server)]], ONE_OR_MORE]
ServerNames = Annotated[list[Annotated[str, AfterValidator(_server_name)]], ONE_OR_MORE]
SctpAddresses = Annotated[list[SctpAddress], ONE_OR_MORE]
WebAddresses = Annotated[list[Annotated[str, AfterValidator(_web_listen)]], ONE_OR_MORE]

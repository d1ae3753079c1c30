"""Where the workers of an application are: only at the ports that follow its own."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fcgi_core.sctp.carrier import Address
from fcgi_core.sctp.endpoints import WORKERS_SETTING, advertised, advertisement, resolve

BASE = Address(("10.0.0.1", "10.0.1.1"), 9000, 9900)


def where(*ports: int) -> list[Address]:
    return [BASE._replace(port=port, udp_port=port + 900) for port in ports]


def test_the_workers_of_an_application() -> None:
    assert advertised(BASE, advertisement(BASE, 3), 64) == (where(9000, 9001, 9002), "")


def test_without_a_list_it_is_one_process() -> None:
    assert advertised(BASE, {}, 64) == (where(9000), "")


def test_workers_follow_the_configured_one() -> None:
    assert advertised(where(9002)[0], advertisement(BASE, 4), 64) == (where(9002, 9003), "")


def test_behind_a_nat_workers_follow_the_configured_one() -> None:
    assert advertised(BASE, {WORKERS_SETTING: "80/9,81/10"}, 64) == (where(9000, 9001), "")


def test_more_than_max_workers() -> None:
    found, problem = advertised(BASE, advertisement(BASE, 5), 3)
    assert found == where(9000, 9001, 9002)
    assert problem == "it has 5 workers and 3 are used: raise web.max_workers"


@pytest.mark.parametrize(
    ("listed", "left_out"),
    [
        ("9000/9900,9001/9901,22/22", "22/22"),
        ("9000/9900,9001/9901,9002/53", "9002/53"),
        ("9000/9900,9001/9901,9001/9901", "9001/9901"),
        ("9000/9900,9001/9901,9002", "9002"),
        ("9000/9900,9001/9901,٣/٣", "٣/٣"),
        ("9000/9900,9001/9901," + 30 * "x", 16 * "x"),
    ],
)
def test_an_application_cannot_direct_to_other_ports(listed: str, left_out: str) -> None:
    found, problem = advertised(BASE, {WORKERS_SETTING: listed}, 64)
    assert found == where(9000, 9001)
    assert problem == f"invalid ports {left_out!r} of worker 2 of {BASE}"


@pytest.mark.parametrize("listed", ["x", "0/0/0,1/1", ","])
def test_an_invalid_list_of_ports(listed: str) -> None:
    found, problem = advertised(BASE, {WORKERS_SETTING: listed}, 64)
    assert found == where(9000)
    assert "worker 0" in problem or "worker 1" in problem


def test_ports_end_at_65535() -> None:
    last = Address(("10.0.0.1",), 65535, 9900)
    assert advertised(last, {WORKERS_SETTING: "65535/9900,65536/9901"}, 64)[0] == [last]


def test_a_resolved_address_keeps_its_zone() -> None:
    zone = socket.if_indextoname(1)
    address = Address.parse(f"[fe80::1%{zone}],192.0.2.1:9000")
    assert asyncio.run(resolve(address)) == address

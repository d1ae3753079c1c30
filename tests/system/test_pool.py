"""Several associations with one process: in namespaces with a path between that loses packets, and on the loopback."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.streams.emulator import EmulatedLane
from bench.streams.network import Route
from tests.system.pool import PoolContract
from tests.system.sided import Load, SidedStack
from tests.system.stack import Stack


@pytest.fixture(scope="module")
def lane() -> Iterator[EmulatedLane]:
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("namespaces and TUN devices need root and /dev/net/tun")
    lane = EmulatedLane(0)
    yield lane
    lane.close()


@pytest.fixture
def start_path(start: Callable[..., Stack], lane: EmulatedLane) -> Callable[..., Stack]:
    lane.set_route(Route(mbits=20.0, delay=50.0, loss=2.0), seed=1)
    app, web = lane.spaces
    road = {"kind": SidedStack, "spaces": (web, app), "hosts": (f"10.8.{lane.number}.2",)}
    return lambda **named: start("applications:plain", **road, sctp={"carrier": "userspace"}, **named)


class TestPool(PoolContract):
    pass


def test_on_the_loopback_one_is_enough(start: Callable[..., Stack]) -> None:
    stack = start("applications:plain")
    with Load(stack, threads=16, count=300, sizes=(1000, 100_000, 1 << 20)) as load:
        pass
    assert load.wrong == []
    assert len(stack.status()["associations"]) == 1
    assert len(re.findall(r"association \d+ with .* is up", stack.web.text)) == 1

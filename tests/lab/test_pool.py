"""Several associations with one process over the kernel's SCTP and netem."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.namespaces import scenario, tc
from tests.lab.services import LabStack
from tests.system.pool import PoolContract


@pytest.fixture
def start_path(plain: None, start_lab: Callable[..., LabStack]) -> Iterator[Callable[..., LabStack]]:
    for side in ("web", "app"):
        tc(side, "netem", "delay", "50ms", "rate", "20mbit", "loss", "2%", "limit", "300")
    yield lambda **named: start_lab("applications:plain", sctp={"carrier": "kernel"}, **named)
    scenario("mend", "0")


class TestPool(PoolContract):
    pass

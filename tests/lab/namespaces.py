"""The lab's network namespaces, from a test: scenarios, and carriers whose sockets live in one of them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.streams.network import inside
from fcgi_core.sctp.carrier import Address, Association, AssociationHandler, Carrier, CarrierOptions, Listener
from fcgi_core.sctp.kernel.carrier import KernelCarrier

SCENARIO = Path(__file__).parents[2] / "lab" / "scenario"
WEB, APP = ("10.9.0.1", "10.9.1.1"), ("10.9.0.2", "10.9.1.2")


def scenario(*words: str) -> None:
    """Run lab/scenario."""
    subprocess.run([SCENARIO, *words], check=True, timeout=60)


def tc(side: str, *words: str) -> None:
    """Set a queueing discipline of our own on cable 0."""
    subprocess.run(["tc", "-n", side, "qdisc", "replace", "dev", f"{side}0", "root", *words], check=True, timeout=60)


def sysctl(side: str, name: str, value: int) -> None:
    with inside(side):
        Path("/proc/sys", *name.split(".")).write_text(str(value))


class Sided:
    """A carrier that lives in a namespace."""

    def __init__(self, side: str, carrier: Carrier) -> None:
        self.side = side
        self.carrier = carrier
        self.name = carrier.name

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> Listener:
        with inside(self.side):
            return self.carrier.listen(address, accept)

    def connect(self, address: Address, handler: AssociationHandler) -> Association:
        with inside(self.side):
            return self.carrier.connect(address, handler)

    def close(self) -> None:
        self.carrier.close()


class SidedKernelCarrier(KernelCarrier):
    """A kernel carrier that lives in a namespace."""

    def __init__(self, side: str, options: CarrierOptions) -> None:
        super().__init__(options)
        self.side = side

    def peel(self, sock: socket.socket, identifier: int) -> socket.socket:
        with inside(self.side):
            return super().peel(sock, identifier)


def kernel_carrier(side: str, options: CarrierOptions) -> Sided:
    return Sided(side, SidedKernelCarrier(side, options))

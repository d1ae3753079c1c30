"""The kernel carrier keeps the contract of carriers."""

from __future__ import annotations

import pytest

from fcgi_core.sctp.carrier import Address, Carrier, CarrierOptions
from fcgi_core.sctp.kernel import KernelCarrier
from tests.lab.namespaces import APP, kernel_carrier
from tests.sctp.contract import CarrierContract


@pytest.mark.usefixtures("plain")
class TestKernel(CarrierContract):
    def make(self, side: str, options: CarrierOptions) -> Carrier:
        return kernel_carrier(side, options)

    def address(self) -> Address:
        return Address(APP[:1], super().address().port)


@pytest.mark.usefixtures("plain", "udp")
class TestKernelInUdp(TestKernel):
    options = {"udp_encapsulation": True}  # noqa: RUF012
    interleaving = False


class TestKernelOnLoopback(CarrierContract):
    """A path with an MTU of 64 KiB, and the guest's own network namespace, where no sysctl was set."""

    interleaving = False

    def make(self, side: str, options: CarrierOptions) -> Carrier:
        return KernelCarrier(options)

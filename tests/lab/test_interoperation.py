"""Kernel and userspace carriers with each other, over UDP (RFC 6951), in both roles, and on a bad network."""

from __future__ import annotations

import pytest

from fcgi_core.sctp.carrier import Address, Carrier, CarrierOptions
from fcgi_core.sctp.userspace.carrier import UserspaceCarrier
from tests.lab.namespaces import APP, Sided, kernel_carrier
from tests.lab.test_paths import echo_intact
from tests.sctp.contract import CarrierContract, Lab

USERSPACE_PORT = 9900
"""In the lab's namespaces the kernel has UDP port 9899 for itself, as on every host where both are used."""


@pytest.mark.usefixtures("plain", "udp")
class TestKernelConnects(CarrierContract):
    """The carriers' defaults, but for what reaching the other one needs."""

    userspace = "app"
    interleaving = False
    udp_port = USERSPACE_PORT

    def make(self, side: str, options: CarrierOptions) -> Carrier:
        if side == self.userspace:
            return Sided(side, UserspaceCarrier(options))
        return kernel_carrier(side, options)

    options = {"udp_encapsulation": True}  # noqa: RUF012

    def address(self) -> Address:
        return Address(APP[:1], super().address().port, self.udp_port)


@pytest.mark.usefixtures("plain", "udp")
class TestUserspaceConnects(TestKernelConnects):
    userspace = "web"
    udp_port = 9899


@pytest.mark.usefixtures("lossy", "udp")
@pytest.mark.parametrize("contract", [TestKernelConnects(), TestUserspaceConnects()], ids=["kernel", "userspace"])
def test_loss_delay_and_reordering(contract: CarrierContract) -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair(echo=True)
        await echo_intact(near, far, 3000, 600)

    contract.run(body)

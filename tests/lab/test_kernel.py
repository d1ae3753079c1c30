"""The kernel carrier keeps the contract of carriers."""

from __future__ import annotations

import subprocess

import pytest

from fcgi_core.common.operator_log import AT_ONCE
from fcgi_core.sctp.carrier import Address, AssociationHandler, Carrier, CarrierOptions, Message
from fcgi_core.sctp.kernel.carrier import KernelCarrier
from tests.garbage import assert_nothing_stays
from tests.lab.namespaces import APP, kernel_carrier
from tests.sctp.contract import CarrierContract, Lab, Recorder


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


class TestKernelBeyondTheContract:
    contract = TestKernelOnLoopback()

    def test_only_allowed_peers(self, caplog: pytest.LogCaptureFixture) -> None:
        async def body(lab: Lab) -> None:
            address = self.contract.address()
            lab.carrier("app", allowed_peers=("192.0.2.0/24",)).listen(address, lambda peer: Recorder())
            for _ in range(2 * AT_ONCE):
                near = Recorder()
                lab.carrier("web").connect(address, near)
                await near.end()
            assert caplog.text.count("refused: not in allowed_peers") == AT_ONCE

        self.contract.run(body)

    def test_a_link_local_address_keeps_its_zone(self) -> None:
        subprocess.run(["ip", "address", "replace", "fe80::1/64", "dev", "lo"], check=True)

        async def body(lab: Lab) -> None:
            peers: list[str] = []

            def accept(peer: str) -> AssociationHandler:
                peers.append(peer)
                return Recorder(echo=True)

            address = Address(("fe80::1%lo",), self.contract.address().port)
            lab.carrier("app").listen(address, accept)
            near = Recorder()
            lab.carrier("web").connect(address, near)
            await near.until(lambda: bool(near.association or near.down))
            near.send([Message(1, b"x")])
            await near.until(lambda: near.received == 1)
            assert peers[0].startswith("[fe80::1%lo]:")
            assert near.up.statistics().packets_sent

        self.contract.run(body)

    def test_without_interleaving_only_what_fits_a_packet_is_unordered(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair(interleaving=False)
            near.send([Message(1, bytes(1000), unordered=True), Message(1, bytes(30_000), unordered=True)])
            await far.until(lambda: far.received == 2)
            assert {len(one.data): one.unordered for one in far.messages} == {1000: True, 30_000: False}

        self.contract.run(body)

    def test_a_round_trip_that_was_not_measured_is_unknown(self) -> None:
        """It is not 0: the web side takes such a path for short, and keeps to one association."""

        async def body(lab: Lab) -> None:
            near, _ = await lab.pair(echo=True)
            assert near.up.statistics().round_trip is None
            near.send([Message(1, b"x")])
            await near.until(lambda: near.received == 1)
            assert near.up.statistics().round_trip is not None

        self.contract.run(body)

    def test_an_association_that_ended_frees_its_memory(self) -> None:
        async def body(lab: Lab) -> None:
            far: list[Recorder] = []

            def accept(peer: str) -> AssociationHandler:
                far.append(Recorder())
                return far[-1]

            address = self.contract.address()
            lab.carrier("app").listen(address, accept)
            web = lab.carrier("web")

            async def once() -> None:
                near = Recorder()
                web.connect(address, near)
                await near.until(lambda: near.association is not None)
                await near.until(lambda: bool(far))
                await far[0].until(lambda: far[0].association is not None)
                near.up.abort("gone")
                await near.end()
                await far[0].end()
                far.clear()

            await assert_nothing_stays(once)

        self.contract.run(body)

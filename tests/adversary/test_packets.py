"""A peer that makes its packets by hand: what SCTP holds of them for chunks that it cannot deliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fcgi_core.sctp.carrier import Address
from tests.adversary.lab import MIB, Lab
from tests.sctp.raw_peer import RawPeer, padding

MOST = 20 * MIB
"""What one association may hold. When each of these chunks kept its packet, it was 265 MiB."""
Packets = Iterator[tuple[bytes, ...]]


def padded_after(peer: RawPeer) -> Packets:
    """The first chunk never comes, so none of the others is delivered."""
    return ((peer.data(tsn, number=tsn), padding(60_000)) for tsn in range(1, 4000))


def padded_before(peer: RawPeer) -> Packets:
    return ((padding(60_000), peer.data(tsn, number=tsn)) for tsn in range(1, 4000))


def behind_a_message(peer: RawPeer) -> Packets:
    """No chunk is missing, but the first message of the stream."""
    return ((padding(60_000), peer.data(tsn, number=1 + tsn)) for tsn in range(8000))


def below_the_highest(peer: RawPeer) -> Packets:
    """libusrsctp takes what is below the highest chunk that it has taken, whether there is room or not."""
    return ((peer.data(tsn, bytes(60_000), number=tsn),) for tsn in (4000, *range(1, 4000)))


@pytest.mark.parametrize("interleaving", [False, True])
@pytest.mark.parametrize("packets", [padded_after, padded_before, behind_a_message, below_the_highest])
def test_what_cannot_be_delivered_is_bounded(
    lab: Lab, packets: Callable[[RawPeer], Packets], interleaving: bool
) -> None:
    async def attack() -> None:
        app = lab.start_app()
        await lab.is_served(app)
        before = app.resident()
        address = Address.parse(app.address)
        async with RawPeer(address.udp_port, address.port, interleaving) as peer:
            await peer.flood(packets(peer))
            assert app.resident() - before < MOST
            await lab.is_served(app)

    lab.run(attack)

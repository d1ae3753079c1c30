"""Somebody on the network who has nothing to do with it: packets at the UDP port, associations without a word."""

from __future__ import annotations

import random

from fcgi_core.sctp.carrier import Address
from tests.adversary.lab import MIB, Lab, stranger


def test_packets_of_strangers_cost_no_memory_and_hold_up_nobody(lab: Lab) -> None:
    async def attack() -> None:
        app = lab.start_app()
        await lab.is_served(app)
        address = Address.parse(app.address)
        before = app.resident()
        chosen = random.Random(1)
        with stranger() as sender:
            for _ in range(20_000):
                sender.sendto(chosen.randbytes(chosen.choice((0, 1, 12, 40, 1400))), ("127.0.0.1", address.udp_port))
        await lab.is_served(app)
        assert app.resident() - before < 2 * MIB
        assert (await app.status())["associations"] == []

    lab.run(attack)

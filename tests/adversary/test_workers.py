"""An application that sends the web side elsewhere: to ports of others, as its workers."""

from __future__ import annotations

import socket

from fcgi_core.protocol.records import RecordType
from fcgi_core.sctp.carrier import Address
from tests.adversary.lab import Lab


def test_workers_are_where_the_configuration_says(lab: Lab) -> None:
    """1,023 workers at any port of the host: 885 packets a second to a foreign program."""

    async def attack() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
            foreign.bind(("127.0.0.1", 0))
            foreign.setblocking(False)
            port = foreign.getsockname()[1]
            fleet = lab.application()
            web = lab.start_web(fleet)
            end = await fleet.next()
            base = Address.parse(fleet.address)
            told = ",".join([f"{base.port}/{base.udp_port}", *(f"{9000 + number}/{port}" for number in range(1022))])
            end.settle(others={"FCGI_SCTP_WORKERS": told})
            await end.comes(RecordType.SETTINGS)
            await web.reads_its_log_until("reports workers that are ignored")
            assert len((await web.status())["upstreams"]) == 1
            try:
                packet = foreign.recv(1)
            except BlockingIOError:
                packet = None
            assert packet is None, "nothing went to another program's port"

    lab.run(attack)


def test_workers_that_contradict_each_other_make_no_associations(lab: Lab) -> None:
    """4,900 associations in 8 s: each told of others."""

    async def attack() -> None:
        fleet = lab.application()
        web = lab.start_web(fleet)
        first = await fleet.next()
        base = Address.parse(fleet.address)
        first.settle(others={"FCGI_SCTP_WORKERS": f"{base.port}/{base.udp_port},{base.port + 1}/{base.udp_port + 1}"})
        await web.reads_its_log_until("has 2 workers")
        for number in range(1, 20):
            first.up.abort()
            first = await fleet.next(number)
            other = f",{base.port + 1}/{base.udp_port + 1}" if number % 2 else ""
            first.settle(others={"FCGI_SCTP_WORKERS": f"{base.port}/{base.udp_port}{other}"})
            await first.comes(RecordType.SETTINGS)
        assert len(fleet.ends) <= 21
        assert len((await web.status())["upstreams"]) <= 2
        assert web.log.stat().st_size < 20_000

    lab.run(attack)

"""The userspace carrier with a peer in another process, which is killed, stopped or started again."""

from __future__ import annotations

import signal
import time

import pytest

from fcgi_core.sctp.carrier import (
    Address,
    Message,
)
from fcgi_core.sctp.silence import silence
from tests.sctp.contract import Lab, Recorder
from tests.sctp.userspace import ANYWHERE, UserspaceTests, application, timed_out


class TestProcesses(UserspaceTests):
    def test_a_peer_in_another_process(self) -> None:
        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                lab.carrier("web").connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                near.send([Message(number % 100, number.to_bytes(4) * 100) for number in range(5000)])
                await near.until(lambda: near.received == 5000)
                near.up.shutdown()
                assert await near.end() == ""
                process.terminate()

        self.contract.run(body)

    def test_a_peer_that_is_killed(self) -> None:
        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                # noticed by its port, long before anything would be by silence
                lab.carrier("web", dead_after=300).connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                process.kill()
                assert "nothing listens on that UDP port any more" in await near.end()

        self.contract.run(body)

    def test_a_peer_that_connected_and_is_killed(self) -> None:
        async def body(lab: Lab) -> None:
            far = Recorder()
            listener = lab.carrier("app", dead_after=300).listen(ANYWHERE, lambda peer: far)
            with application(connects=listener.address.udp_port) as (process, _):
                await far.until(lambda: far.association is not None)
                process.kill()
                assert "nothing listens on that UDP port any more" in await far.end()

        self.contract.run(body)

    def test_a_peer_that_restarted_says_so(self) -> None:
        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                lab.carrier("web", rto_max=0.5).connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                process.kill()
                process.wait()
                with application(port):
                    near.up.send([Message(0, b"to whom?")])
                    assert "aborted" in await near.end()

        self.contract.run(body)

    def test_a_peer_that_is_stopped_for_a_while(self) -> None:
        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                lab.carrier("web").connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                process.send_signal(signal.SIGSTOP)
                near.send([Message(number % 10, bytes(1000)) for number in range(100)])
                await timed_out(near, 2)
                process.send_signal(signal.SIGCONT)
                await near.until(lambda: near.received == 100)

        self.contract.run(body)

    @pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
    def test_a_peer_that_is_stopped_for_good(self, busy: bool) -> None:
        """Given up after `dead_after`, not before, whether there is something to send or not."""

        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                lab.carrier("web", **silence(2)._asdict()).connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                process.send_signal(signal.SIGSTOP)
                stopped = time.monotonic()
                if busy:
                    near.send([Message(number % 10, bytes(1000)) for number in range(100)])
                assert await near.end() == f"127.0.0.1:{port} does not answer any more: no packet for 2 s"
                assert time.monotonic() - stopped >= 1.9  # its last packet may have come a moment before

        self.contract.run(body)

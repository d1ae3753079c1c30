"""A user of the same host: whoever may connect to the sockets of a running side."""

from __future__ import annotations

import asyncio
import socket

from tests.adversary.lab import MIB, Lab, ask_web


def test_hostile_listeners_of_the_feed_cost_little(lab: Lab) -> None:
    """At the feed's, the admin's and the web server's socket: half a line, a long one, nothing, nonsense."""

    async def attack() -> None:
        app = lab.start_app()
        web = lab.start_web(app)
        await web.reads_its_log_until("is up")
        before = web.resident()
        held = []
        for path in (f"{lab.folder}/web.feed", f"{lab.folder}/web.admin", web.address):
            for words in (b"", b"{", b"\xff" * 8, b"[" * 20_000, b'{"ask": "status"}\n' * 1000, b"A" * 100_000):
                for _ in range(5):
                    one = socket.socket(socket.AF_UNIX)
                    one.setblocking(False)
                    one.connect(path)
                    held.append(one)
                    try:
                        one.send(words)
                    except OSError:
                        pass  # it was turned away
        await asyncio.sleep(0)
        assert b"hello" in await ask_web(web)
        await web.grown_since(before, 8 * MIB, "ninety connections that say nonsense")
        for one in held:
            one.close()
        assert (await web.status())["requests"]["ended"] == 1

    lab.run(attack)

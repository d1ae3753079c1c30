"""A client whose header Proxy becomes HTTP_PROXY, the variable in which many programs look for their HTTP proxy."""

from __future__ import annotations

import pytest

from fcgi_core.protocol.records import RecordType
from tests.adversary.lab import End, Lab
from tests.app.fastcgi_server import Served, fastcgi_server

EVIL = "http://evil.example/"


async def tells(connection: Served) -> None:
    """A server behind the bridge, which answers with what it got."""
    while await connection.request_comes():
        connection.answer(repr(connection.params).encode())


async def environ_of(web: End) -> bytes:
    """What the application got, as it tells it."""
    web.request(1, {"PATH_INFO": "/environ", "HTTP_PROXY": EVIL, "HTTP_X_PROXY": "harmless"})
    await web.comes(RecordType.END_REQUEST)
    return b"".join(one.content for one in web.records(RecordType.STDOUT))


@pytest.mark.parametrize("kind", ["wsgi", "bridge"])
def test_no_application_gets_a_proxy_from_a_client(lab: Lab, kind: str) -> None:
    """CVE-2016-5385: it reached the servers behind the bridge."""

    async def attack() -> None:
        async with fastcgi_server(lab.folder / "s", tells):
            app = lab.start_app(None, fastcgi=f"unix:{lab.folder}/s") if kind == "bridge" else lab.start_app()
            told = await environ_of(await lab.web_side(app))
        assert b"HTTP_X_PROXY" in told
        assert b"HTTP_PROXY" not in told
        assert EVIL.encode() not in told

    lab.run(attack)

"""What holds for every application, whichever way it takes its requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.app.asgi import AsgiApplication
from fcgi_core.app.fastcgi.bridge import FastcgiBridge
from fcgi_core.app.service import Application
from fcgi_core.app.wsgi import WsgiApplication
from fcgi_core.hosting.discovery import EnabledPlugin
from fcgi_core.plugin import ApplicationHalf, Host, Plugin, RequestInfo
from tests.app.fastcgi_server import Served, fastcgi_server
from tests.app.harness import serving


def told(variables: Mapping[str, str]) -> bytes:
    """The request's headers, as an application says them."""
    return repr(sorted(pair for pair in variables.items() if pair[0].startswith("HTTP_"))).encode()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    return [told(environ)]


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Awaitable[None]]) -> None:
    headers = {"HTTP_" + name.decode().upper().replace("-", "_"): value.decode() for name, value in scope["headers"]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told(headers)})


async def fastcgi(connection: Served) -> None:
    while await connection.request_comes():
        connection.answer(told(connection.params))


class Seen(Plugin):
    """Notes the variables of each request."""

    name = "seen"

    def __init__(self) -> None:
        self.names: list[str] = []

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        seen = self

        class Half(ApplicationHalf):
            def request_begin(self, request: RequestInfo) -> None:
                seen.names += request.params

        return Half()


@pytest.mark.parametrize("kind", ["wsgi", "asgi", "fastcgi"])
def test_no_application_gets_a_proxy_from_a_header(kind: str, tmp_path: Path) -> None:
    """HTTP_PROXY, CVE-2016-5385. The variables before and behind it come as they were."""

    async def test() -> None:
        path = tmp_path / "s"
        applications: dict[str, Callable[[], Application]] = {
            "wsgi": lambda: WsgiApplication(wsgi),
            "asgi": lambda: AsgiApplication(asgi),
            "fastcgi": lambda: FastcgiBridge(f"unix:{path}"),
        }
        seen = Seen()
        plugins = [EnabledPlugin(seen, None, (), {}, {})]
        async with fastcgi_server(path, fastcgi), serving(applications[kind](), plugins=plugins) as web:
            about = {"HTTP_HOST": "shop.example", "HTTP_PROXY_NAME": "x" * 200}
            _, body = await web.get(HTTP_PROXY="http://evil.example/", **about)
            assert body == told(about)
            assert "HTTP_PROXY_NAME" in seen.names
            assert "HTTP_PROXY" not in seen.names

    asyncio.run(test())

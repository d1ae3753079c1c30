"""What nginx makes of answers that come before the upload, and of STDERR that comes before the answer.

By whether it keeps its connections and whether it buffers uploads, which its users may have in any way."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.stack import Stack, free_port

SERVER = """\
server {{
    listen 127.0.0.1:{port} sndbuf=64k;
    server_name shop.example;
    fastcgi_keep_conn {keep};
    fastcgi_request_buffering {buffering};
    fastcgi_buffering {buffering};
    location / {{ fastcgi_pass {address}; }}
    location /errors {{ fastcgi_catch_stderr "PHP Fatal"; fastcgi_next_upstream off; fastcgi_pass {address}; }}
}}
"""


class Nginx:
    """One way in which nginx may be configured."""

    def __init__(self, keep: bool, buffering: bool) -> None:
        self.keep = keep
        self.buffering = buffering
        self.port = 0

    def __repr__(self) -> str:
        return f"{'kept' if self.keep else 'closed'}-{'buffered' if self.buffering else 'unbuffered'}"

    def server(self, address: str) -> str:
        return SERVER.format(
            port=self.port,
            keep="on" if self.keep else "off",
            buffering="on" if self.buffering else "off",
            address="applications" if self.keep else address,
        )

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Host": "shop.example"})
            with connection.getresponse() as response:
                return response.status, response.read()
        finally:
            connection.close()


WAYS = [Nginx(keep, buffering) for keep in (False, True) for buffering in (False, True)]


class EarlyStack(Stack):
    """nginx in all these ways in front of one web side."""

    def start_nginx(self) -> None:
        for way in WAYS:
            way.port = free_port()
        self._nginx_lines = "".join(way.server(self.listen) for way in WAYS)
        super().start_nginx()


@pytest.fixture(scope="module", params=["unix", "tcp"])
def stack(request: pytest.FixtureRequest, start_for_module: Callable[..., Stack]) -> Stack:
    return start_for_module("applications:plain", kind=EarlyStack, tcp=request.param == "tcp")


@pytest.mark.parametrize("size", [280_000, 8 << 20])
@pytest.mark.parametrize("way", WAYS, ids=repr)
def test_answers_that_do_not_wait_for_the_upload(stack: Stack, way: Nginx, size: int) -> None:
    body = bytes(size)

    def work(worker: int) -> list[tuple[int, bytes]]:
        return [answer for _ in range(8) for answer in (way.ask("POST", "/refuse", body), way.ask("GET", "/hello"))]

    with ThreadPoolExecutor(2) as pool:
        for answers in pool.map(work, range(2)):
            assert answers == [(401, b"who are you?"), (200, b"hello")] * 8
    assert way.ask("POST", "/upload", body)[0] == 200, "one that is read whole, too"


@pytest.mark.parametrize("way", WAYS, ids=repr)
def test_nginx_catches_what_was_said_before_the_answer(stack: Stack, way: Nginx) -> None:
    for _ in range(5):
        assert way.ask("GET", "/errors?text=PHP+Warning") == (200, b"told")
        assert way.ask("GET", "/errors?text=PHP+Fatal")[0] == 502
    for more in (3, 4, 30):  # it does not fill nginx's buffer
        assert way.ask("GET", f"/errors?text=PHP+Warning&more={more}") == (200, b"told")

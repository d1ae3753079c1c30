"""ASGI applications behind nginx, by the whole road."""

from __future__ import annotations

import hashlib
import http.client
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.stack import Stack


@pytest.fixture(scope="module")
def stack(start_for_module: Callable[..., Stack]) -> Stack:
    return start_for_module("asgi_applications:starlette", throws=True)


def test_hello(stack: Stack) -> None:
    answer = stack.ask("/hello")
    assert (answer.status, answer.body) == (200, b"hello")
    assert stack.ask("/nowhere").status == 404
    assert stack.ask("/hello", "HEAD").body == b""


def test_a_large_upload(stack: Stack) -> None:
    body = random.Random(1).randbytes(5 << 20)
    answer = stack.ask("/upload", "POST", body)
    assert answer.json() == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_many_downloads_at_once(stack: Stack) -> None:
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: stack.ask("/big?blocks=80"), range(16)):
            assert answer.body == b"".join(bytes((number,)) * 65536 for number in range(80))


def test_the_application_stops_when_the_client_has_gone(stack: Stack) -> None:
    connection = stack.connect()
    connection.request("GET", "/forever", headers={"Host": "shop.example"})
    response = connection.getresponse()
    assert response.read(11) == b"still here\n"
    response.close()
    connection.close()
    stack.saw("forever over")


def test_an_answer_that_breaks_off_is_seen_to(stack: Stack) -> None:
    with pytest.raises(http.client.HTTPException):  # IncompleteRead, or RemoteDisconnected if nginx still had it all
        stack.ask("/half")
    assert stack.ask("/hello").status == 200


def test_a_request_to_upgrade_is_answered(stack: Stack) -> None:
    answer = stack.ask(
        "/hello", headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    )
    assert (answer.status, answer.body) == (200, b"hello")


def test_a_plain_function(start: Callable[..., Stack]) -> None:
    stack = start("asgi_applications:plain", app={"script_name": "/shop"})
    scope = stack.ask("/shop/a%20b?x=1", headers={"X-Colour": "blue"}).json()
    assert (scope["root_path"], scope["path"], scope["scheme"]) == ("/shop", "/shop/a b", "http")
    assert scope["headers"]["x-colour"] == "blue"

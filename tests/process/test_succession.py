"""A process that takes another's place: what goes wrong, and what changes hands. The whole is in tests/system."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any

import pytest

from fcgi_core.common import listening
from fcgi_core.process import succession
from fcgi_core.process.succession import VARIABLE, Predecessor, Successor

READY = f"""\
import os, socket
channel = socket.socket(fileno=int(os.environ["{VARIABLE}"]))
channel.recv(300)
channel.send(b"ready")
"""
WAITS = "import time; time.sleep(600)"


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("fcgi_sctp"), "propagate", True)
    monkeypatch.setattr(listening, "_handed_over", False)
    monkeypatch.setattr(listening, "_waits", False)
    caplog.set_level(logging.INFO, "fcgi_sctp")


def run(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def wrapper(*args: object, **named: object) -> None:
        asyncio.run(test(*args, **named))  # type: ignore[arg-type]

    return wrapper


async def until(ready: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not ready():
            await asyncio.sleep(0.01)


def of(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@run
async def test_one_that_ends_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    served: list[None] = []
    successor = Successor(of("raise SystemExit(78)"), lambda: served.append(None))
    for _ in range(2):
        caplog.clear()
        successor.start()
        await until(lambda: "it ended with status 78" in caplog.text)
        assert "not reloaded, this process serves on: no other could take its place" in caplog.text
    assert served == []
    assert not successor.is_ready
    assert not listening.another_serves()


@run
async def test_one_that_is_not_ready_in_time_is_ended(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "START_LIMIT", 0.1)
    successor = Successor(of(WAITS), lambda: None)
    successor.start()
    await until(lambda: "it was not ready after 0.1 s" in caplog.text)


@run
async def test_one_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    successor = Successor(of(WAITS), lambda: None)
    successor.start()
    successor.start()
    assert "is starting already" in caplog.text
    successor.cancel()


@run
async def test_one_that_cannot_be_started(caplog: pytest.LogCaptureFixture) -> None:
    Successor(["/no/such/command"], lambda: None).start()
    assert "it cannot be started: No such file or directory (/no/such/command)" in caplog.text


@run
async def test_process_1_of_a_container_is_not_replaced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    Successor(of(READY), lambda: None).start()
    assert "process 1 cannot be replaced" in caplog.text


TELLS = f"""\
import os, socket, sys
channel = socket.socket(fileno=int(os.environ["{VARIABLE}"]))
first = channel.recv(300)
channel.send(b"ready")
channel.send(first + channel.recv(300))
"""


@run
async def test_the_state_at_the_start_and_at_the_end_changes_hands() -> None:
    state = {"drained": ["a:1"]}
    served = asyncio.Event()
    successor = Successor(of(TELLS), served.set, lambda: state)
    successor.start()
    state["drained"] = ["a:1", "b:2"]
    await served.wait()
    assert successor._channel is not None
    successor._channel.setblocking(True)
    assert successor._channel.recv(600) == b'\0{"drained": ["a:1"]}={"drained": ["a:1", "b:2"]}'
    await until(lambda: successor._process is not None and successor._process.poll() is not None)
    successor.close()


@run
async def test_connections_that_nobody_takes_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    served = asyncio.Event()
    successor = Successor(of(READY), served.set)
    successor.start()
    await served.wait()
    assert successor.is_ready
    assert listening.another_serves()
    successor.start()
    assert "has taken the place of this one" in caplog.text
    await until(lambda: successor._process is not None and successor._process.poll() is not None)
    here, there = socket.socketpair()
    with there:
        successor.pass_on(here.detach())
        await until(lambda: "1 connections of web servers could not be passed on" in caplog.text)
        assert there.recv(1) == b""
    successor.close()


@run
async def test_sockets_and_connections_change_hands(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with old, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.send_fds(old, [b"\1", b'{"drained": ["a:1"]}'], [server.fileno()])
        monkeypatch.setenv(VARIABLE, str(new.detach()))
        predecessor = Predecessor.find()
        assert predecessor is not None
        assert VARIABLE not in os.environ, "a child of this process is no successor"
        assert listening.another_serves(), "until this one is ready"
        (taken,) = listening.listen_tcp("127.0.0.1", port)
        taken.close()
        assert predecessor.state == {"drained": ["a:1"]}

        served: list[socket.socket] = []

        async def serve(connection: socket.socket) -> None:
            served.append(connection)

        known: list[Mapping[str, Any]] = []
        predecessor.tell_ready(serve, known.append)
        old.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(old, 16) == b"ready"
        here, there = socket.socketpair()
        with here, there:
            socket.send_fds(old, [b"..."], [here.fileno(), here.fileno()])
            await until(lambda: len(served) == 2)
            assert "1 connections of web servers could not be passed on and were closed" in caplog.text
            assert not listening.another_serves()
            served[0].send(b"x")
            assert there.recv(1) == b"x"
        for state in (b'={"drained": []}', b"=no JSON", b"=[]"):
            old.send(state)
        await until(lambda: len(known) == 3)
        assert known == [{"drained": []}, {}, {}]
        for one in served:
            one.close()
        old.close()
        await until(lambda: predecessor._channel.fileno() < 0)


def test_no_predecessor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Predecessor.find() is None

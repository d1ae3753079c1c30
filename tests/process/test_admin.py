from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.process import admin as module
from fcgi_core.process.admin import MAX_CLIENTS, MAX_LINE, AdminServer, open_admin


def refuse(question: Any) -> Any:
    raise ValueError("no such option")


async def later(question: Any) -> Any:
    await asyncio.sleep(0)
    return question["number"] + 1


COMMANDS = {
    "echo": lambda question: question,
    "refuse": refuse,
    "break": lambda question: 1 / 0,
    "later": later,
}


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[AdminServer]:
    server = AdminServer(str(path), COMMANDS)
    await server.start()
    try:
        yield server
    finally:
        server.close()
        while server._clients:
            await asyncio.sleep(0)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, question: Any) -> Any:
        self.writer.write(json.dumps(question).encode() + b"\n")
        return json.loads(await self.reader.readline())

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def connect(path: Path) -> Client:
    return Client(*await asyncio.open_unix_connection(path))


def run(path: Path, test: Callable[[AdminServer], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with serving(path) as server:
            await test(server)

    asyncio.run(inside())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


def test_questions_and_answers(path: Path) -> None:
    async def check(server: AdminServer) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = await connect(path)
        assert await client.ask({"ask": "echo", "x": [1]}) == {"ok": True, "answer": {"ask": "echo", "x": [1]}}
        assert await client.ask({"ask": "later", "number": 4}) == {"ok": True, "answer": 5}
        assert await client.ask({"ask": "refuse"}) == {"ok": False, "error": "no such option"}
        await client.close()

    run(path, check)
    assert not path.exists()


@pytest.mark.parametrize("question", [{"ask": "x"}, {"ask": ["echo"]}, {}, 5, None, "echo"])
def test_unknown_questions(path: Path, question: Any) -> None:
    async def check(server: AdminServer) -> None:
        answer = json.loads(await server.answer(json.dumps(question).encode()))
        assert answer["ok"] is False
        assert answer["error"].endswith("ask one of: break, echo, later, refuse")

    run(path, check)


@pytest.mark.parametrize("line", [b"", b"\xff\n", b"{", b"[" * 50_000])
def test_questions_that_are_not_json(path: Path, line: bytes) -> None:
    async def check(server: AdminServer) -> None:
        assert json.loads(await server.answer(line))["error"].startswith("the question is not JSON")

    run(path, check)


def test_a_bug_is_logged_and_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(server: AdminServer) -> None:
        client = await connect(path)
        assert "the log of process" in (await client.ask({"ask": "break"}))["error"]
        assert (await client.ask({"ask": "echo"}))["ok"]
        await client.close()

    run(path, check)
    assert "ZeroDivisionError" in caplog.text


def test_questions_sent_at_once_are_answered_in_order(path: Path) -> None:
    async def check(server: AdminServer) -> None:
        client = await connect(path)
        client.writer.write(b"".join(b'{"ask":"later","number":%d}\n' % number for number in range(100)))
        answers = [json.loads(await client.reader.readline())["answer"] for _ in range(100)]
        assert answers == list(range(1, 101))
        await client.close()

    run(path, check)


def test_a_question_that_is_too_long(path: Path) -> None:
    async def check(server: AdminServer) -> None:
        client = await connect(path)
        client.writer.write(b"x" * (2 * MAX_LINE))
        assert "one line" in json.loads(await client.reader.readline())["error"]
        await client.close()

    run(path, check)


def test_clients_are_bounded(path: Path) -> None:
    async def check(server: AdminServer) -> None:
        clients = [await connect(path) for _ in range(MAX_CLIENTS)]
        for client in clients:
            assert (await client.ask({"ask": "echo"}))["ok"]
        assert (await clients[0].ask({"ask": "echo"}))["ok"]  # so the second has been silent for longest
        one_more = await connect(path)
        assert (await one_more.ask({"ask": "echo"}))["ok"]
        with suppress(ConnectionResetError):
            assert await clients[1].reader.read() == b""
        assert (await clients[0].ask({"ask": "echo"}))["ok"]
        assert len(server._clients) == MAX_CLIENTS
        for client in (*clients, one_more):
            await client.close()

    run(path, check)


def test_who_says_nothing_is_sent_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)

    async def check(server: AdminServer) -> None:
        client = await connect(path)
        assert await client.reader.read() == b""
        await client.close()

    run(path, check)


def test_a_client_that_does_not_read_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)

    async def check(server: AdminServer) -> None:
        client = await connect(path)
        long = json.dumps({"ask": "echo", "x": "y" * 60_000}).encode() + b"\n"
        client.writer.write(long * 200)
        while not server._clients:
            await asyncio.sleep(0)
        while server._clients:  # until its patience is over
            await asyncio.sleep(0)
        client.writer.transport.abort()

    run(path, check)


def test_the_end_while_clients_are_there(path: Path) -> None:
    async def inside() -> None:
        async with serving(path):
            client = await connect(path)
            assert (await client.ask({"ask": "echo"}))["ok"]
        assert await client.reader.read() == b""
        await client.close()

    asyncio.run(inside())


def test_a_path_in_use(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(server: AdminServer) -> None:
        with pytest.raises(OSError, match="another process listens"):
            await open_admin(str(path), COMMANDS)
        caplog.set_level("INFO")
        assert await open_admin(str(path), COMMANDS, needed=False) is None
        assert "no admin socket" in caplog.text

    run(path, check)


def test_the_directory_is_made(tmp_path: Path) -> None:
    async def inside() -> None:
        server = await open_admin(str(tmp_path / "run" / "admin.sock"), COMMANDS, needed=False)
        assert server is not None
        server.close()

    asyncio.run(inside())

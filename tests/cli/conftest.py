"""A live feed that runs during a test, a feed that follows a script, and scripted admin sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.plugin import FeedEntry
from fcgi_core.web.feed import Feed


class RunningFeed:
    """A `Feed` on its own thread; every call returns when it is done."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._feed: Feed | None = None

    def start(self) -> None:
        self._feed = Feed(self.path)
        asyncio.run_coroutine_threadsafe(self._feed.start(), self._loop).result(10)

    def publish(self, *entries: FeedEntry) -> None:
        async def publish() -> None:
            assert self._feed is not None
            for entry in entries:
                self._feed.publish(entry)

        asyncio.run_coroutine_threadsafe(publish(), self._loop).result(10)

    def stop(self) -> None:
        async def stop() -> None:
            # A connection that is accepted but has no transport yet when the server closes would never be closed:
            # asyncio drops its socket (python/cpython#109564; uvloop accepts in one step). Between this and `close`
            # nothing is accepted.
            while accepting := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(accepting, timeout=10)
            if self._feed is not None:
                self._feed.close()
            for _ in range(20):  # the transports end on the loop, one turn after the other
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._feed = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class ScriptedFeed:
    """Serves one connection after the other: for each, a greeting and what follows the listener's wish."""

    def __init__(self, path: Path, connections: Sequence[tuple[dict[str, Any] | bytes, Sequence[object]]]) -> None:
        self.wishes: list[Any] = []
        self._connections = connections
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.settimeout(10)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for greeting, lines in self._connections:
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rb") as reader:
                if isinstance(greeting, bytes):
                    connection.sendall(greeting)
                    continue
                about = {"feed": "fcgi-sctp", "version": 1, "instance": "one", "first": 1, "next": 1, **greeting}
                connection.sendall(json.dumps(about).encode() + b"\n")
                self.wishes.append(json.loads(reader.readline()))
                for line in lines:
                    connection.sendall((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")

    def close(self) -> None:
        self._thread.join(10)
        self._listening.close()


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[RunningFeed]:
    feed = RunningFeed(tmp_path / "feed.sock")
    feed.start()
    yield feed
    feed.close()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., ScriptedFeed]]:
    made = []

    def script(*connections: tuple[dict[str, Any] | bytes, Sequence[object]]) -> ScriptedFeed:
        made.append(ScriptedFeed(tmp_path / "feed.sock", connections))
        return made[-1]

    yield script
    for one in made:
        one.close()


Answer = Callable[[bytes], bytes]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Answer], str]]:
    """Starts a server that answers each line by a function and returns its path; b'' closes the connection."""
    stopping: list[tuple[socket.socket, threading.Thread]] = []

    def start(answer: Answer) -> str:
        path = str(tmp_path / f"{len(stopping)}.sock")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()

        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as lines:
                    for line in lines:
                        answered = answer(line)
                        if not answered:
                            break
                        connection.sendall(answered)

        thread = threading.Thread(target=run)
        thread.start()
        stopping.append((listening, thread))
        return path

    yield start
    for listening, thread in stopping:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)

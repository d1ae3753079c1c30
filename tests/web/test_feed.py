"""The live feed, on a real socket."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import socket
import stat
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.plugin import FeedEntries, FeedEntry
from fcgi_core.web import feed as feed_module
from fcgi_core.web.feed import Feed


class Listener:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def line(self) -> dict[str, Any]:
        value = json.loads(await asyncio.wait_for(self._reader.readline(), 10))
        assert isinstance(value, dict)
        return value

    async def numbers(self, count: int) -> list[int]:
        return [(await self.line())["n"] for _ in range(count)]

    def say(self, wish: object) -> None:
        self._writer.write(json.dumps(wish).encode() + b"\n")

    def end(self) -> None:
        self._writer.write_eof()

    async def rest(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (await self.rest_bytes()).splitlines()]

    async def rest_bytes(self) -> bytes:
        return await asyncio.wait_for(self._reader.read(), 10)

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass  # the feed was the first


@asynccontextmanager
async def listening(feed: Feed, wish: object = None) -> AsyncIterator[tuple[Listener, dict[str, Any]]]:
    """A listener and the greeting it got."""
    listener = Listener(*await asyncio.open_unix_connection(feed.path))
    try:
        greeting = await listener.line()
        if wish is not None:
            listener.say(wish)
        yield listener, greeting
    finally:
        await listener.close()


def run(path: Path, test: Callable[[Feed], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        feed = Feed(path / "feed.sock", **options)
        await feed.start()
        try:
            await test(feed)
        finally:
            feed.close()
            await asyncio.sleep(0)  # the transports end on the loop

    asyncio.run(main())
    gc.collect()  # a socket left open is told here, and is an error


def entry(message: str = "text", **more: Any) -> FeedEntry:
    return FeedEntry(1_700_000_000.25, 4, message, **more)


def test_greeting_and_entry(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        feed.publish(entry("first", server_name="shop.example", request="r", fields={"uri": "/"}))
        async with listening(feed, {"since": 1}) as (listener, greeting):
            assert greeting == {
                "feed": "fcgi-sctp",
                "version": 1,
                "instance": feed.instance,
                "first": 1,
                "next": 2,
            }
            assert await listener.line() == {
                "n": 1,
                "time": 1_700_000_000.25,
                "severity": 4,
                "facility": 1,
                "server_name": "shop.example",
                "request": "r",
                "message": "first",
                "fields": {"uri": "/"},
            }
            feed.publish(entry("\x1b\n\ud800 ä"))
            assert (await listener.line())["message"] == "\x1b\n\ud800 ä"

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("wish", "numbers"),
    [
        ({"since": 4}, [4, 5, 6]),
        ({"since": 99}, [6]),
        ({"since": -5}, [1, 2, 3, 4, 5, 6]),
        ({"tail": 2}, [4, 5, 6]),
        ({"tail": 99}, [1, 2, 3, 4, 5, 6]),
        ({"tail": 0}, [6]),
        ({"tail": -3}, [6]),
        ({}, [6]),
        ([1], [6]),
        ({"since": "x"}, [6]),
        ("x" * 9000, [6]),
    ],
)
def test_which_past_entries_a_listener_gets(tmp_path: Path, wish: object, numbers: list[int]) -> None:
    async def test(feed: Feed) -> None:
        for _ in range(5):
            feed.publish(entry())
        async with listening(feed, wish) as (listener, _):
            feed.publish(entry())
            assert await listener.numbers(len(numbers)) == numbers

    run(tmp_path, test)


def test_a_silent_listener_gets_new_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "SPEAK_WITHIN", 0.001)

    async def test(feed: Feed) -> None:
        feed.publish(entry())
        async with listening(feed) as (listener, _):
            feed.publish(entry())
            assert await listener.numbers(1) == [2]
            listener.say({"since": 1})  # too late
            feed.publish(entry())
            assert await listener.numbers(1) == [3]

    run(tmp_path, test)


@pytest.mark.parametrize("wish", [{"tail": 3}, None])
def test_a_listener_that_closes_its_half_gets_the_entries_that_there_are(tmp_path: Path, wish: object) -> None:
    async def test(feed: Feed) -> None:
        for _ in range(5):
            feed.publish(entry())
        async with listening(feed, wish) as (listener, _):
            listener.end()
            assert [line["n"] for line in await listener.rest()] == ([3, 4, 5] if wish else [])

    run(tmp_path, test)


def test_the_ring_is_bounded_in_entries(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        for _ in range(25):
            feed.publish(entry())
        async with listening(feed, {"since": 3}) as (listener, greeting):
            assert (greeting["first"], greeting["next"]) == (16, 26)
            assert await listener.line() == {"lost": 13, "next": 16}
            assert await listener.numbers(10) == list(range(16, 26))

    run(tmp_path, test, keep_entries=10)


@pytest.mark.parametrize(("wish", "lost"), [({"since": 4}, 12), ({"tail": 2}, 10), ({"tail": 0}, 10), ({}, 10)])
def test_what_came_before_the_wish_is_sent_or_told(tmp_path: Path, wish: object, lost: int) -> None:
    async def test(feed: Feed) -> None:
        for _ in range(5):
            feed.publish(entry())
        async with listening(feed) as (listener, greeting):
            assert greeting["next"] == 6
            for _ in range(20):  # all that was there at the greeting leaves the ring, and more
                feed.publish(entry())
            listener.say(wish)
            assert await listener.line() == {"lost": lost, "next": 16}
            assert await listener.numbers(10) == list(range(16, 26))

    run(tmp_path, test, keep_entries=10)


def test_the_ring_is_bounded_in_bytes(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        for _ in range(100):
            feed.publish(entry("x" * 744))
        assert 3 <= feed.next - feed.first <= 10, "each costs more than its text"
        feed.publish(entry("y" * 100_000))  # one is always there
        assert (feed.first, feed.next) == (101, 102)
        feed.publish(entry(fields={"long": "y" * 100_000}))
        assert feed.first == 102

    run(tmp_path, test, keep_bytes=10_000)


SHAPES: dict[str, Callable[[int], FeedEntry]] = {
    "empty": lambda number: entry(""),
    "short": lambda number: entry(f"message {number}", server_name=f"{number}.example", request=f"{number:032x}"),
    "fields without values": lambda number: entry("", fields={f"{number}.{one}": "" for one in range(2000)}),
    "one character of four bytes": lambda number: entry("x" * 20_000 + "\U0001f600" + str(number)),
    "long names": lambda number: entry("", application=f"{number}" * 50_000, kind=f"{number}" * 20_000),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_counted_is_what_is_held(tmp_path: Path, shape: str) -> None:
    """An entry that kept 0.72 MB counted as 258 bytes."""
    keep = 1 << 20

    async def test(feed: Feed) -> None:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            number = 0
            while feed.first < 20:
                feed.publish(SHAPES[shape](number))
                number += 1
            async with listening(feed, {"since": 1}) as (listener, _):
                listener.end()
                await listener.rest_bytes()  # and lines are made of what there is
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert feed.next - feed.first > 1
        assert held < 1.25 * keep
        assert feed._bytes <= keep

    run(tmp_path, test, keep_bytes=keep)


def test_a_line_that_is_too_long_is_cut_and_says_so(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        feed.publish(entry("\x1b" * 500_000, fields={"a": "b"}))
        feed.publish(entry("short", fields={"a": "\x1b" * 500_000}))
        feed.publish(entry("after"))
        async with listening(feed, {"since": 1}) as (listener, _):
            listener.end()
            cut, bare, after = await listener.rest()
        assert cut["message"] == "\x1b" * feed_module.CUT_TO + " [cut: 500000 characters in all]"
        assert bare["message"] == "short [cut: 5 characters in all]"
        assert "fields" not in bare
        assert after["message"] == "after"

    run(tmp_path, test)


class Many(FeedEntries):
    """Entries that are made when somebody reads them, each with its position as text."""

    def __init__(self, count: int, held: int = 0) -> None:
        self.count = count
        self.made: list[int] = []
        self._held = held

    def __len__(self) -> int:
        return self.count

    @property
    def held(self) -> int:
        return self._held

    def entry(self, position: int) -> FeedEntry:
        self.made.append(position)
        return entry(str(position))


def test_many_together(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        first, second = Many(7), Many(8)
        feed.publish_all(first)
        feed.publish_all(Many(0))
        feed.publish_all(second)
        assert (feed.first, feed.next) == (6, 16)
        for _ in range(2):
            async with listening(feed, {"since": 6}) as (listener, _):
                lines = [await listener.line() for _ in range(10)]
            assert [line["n"] for line in lines] == list(range(6, 16))
            assert [line["message"] for line in lines] == ["5", "6", *map(str, range(8))]
        # made for whoever reads, and once
        assert (first.made, second.made) == ([5, 6], [*range(8)])
        feed.publish(entry("one"))
        feed.publish_all([entry("two"), entry("three")])
        feed.publish_all(Many(1))
        async with listening(feed, {"tail": 5}) as (listener, _):
            assert [(await listener.line())["message"] for _ in range(5)] == ["7", "one", "two", "three", "0"]

    run(tmp_path, test, keep_entries=10)


def test_many_together_are_bounded_in_bytes(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        for _ in range(3000):
            feed.publish_all(Many(10, 2500))
        # 3 KB each, so three of them
        assert (feed.first, feed.next) == (29_971, 30_001)
        async with listening(feed, {"since": 1}) as (listener, _):
            assert await listener.line() == {"lost": 29_970, "next": 29_971}
            assert await listener.numbers(30) == list(range(29_971, 30_001))
        # lines that were made count too
        feed.publish_all(Many(1))
        assert feed.first == 29_981

    run(tmp_path, test, keep_bytes=10_000)


def test_a_slow_listener_loses_and_is_told(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        slow = socket.socket(socket.AF_UNIX)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, feed.path)
        await loop.sock_sendall(slow, b'{"since": 1}\n')
        async with listening(feed, {"since": 1}) as (quick, _):
            for start in range(1, 4000, 50):
                for _ in range(50):
                    feed.publish(entry("x" * 1000))
                assert await quick.numbers(50) == list(range(start, start + 50))
        assert feed.first == 3901
        with slow, os.fdopen(os.dup(slow.fileno()), "rb", buffering=0):
            data = b""
            while b'"n":4000,' not in data:
                data += await asyncio.wait_for(loop.sock_recv(slow, 1 << 20), 10)
        _, *lines = [json.loads(line) for line in data.splitlines()]
        expected = 1
        told = 0
        for line in lines:
            if "lost" in line:
                told += line["lost"]
                expected += line["lost"]
                assert line["next"] == expected
            else:
                assert line["n"] == expected
                expected += 1
        assert expected == 4001
        assert told > 0

    run(tmp_path, test, keep_entries=100)


def test_a_long_past_comes_in_batches(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        for _ in range(3000):
            feed.publish(entry("x" * 300))
        async with listening(feed, {"since": 1}) as (listener, _):
            assert await listener.numbers(3000) == list(range(1, 3001))

    run(tmp_path, test)


def test_too_many_listeners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_LISTENERS", 1)

    async def test(feed: Feed) -> None:
        async with listening(feed) as (listener, _):
            other = Listener(*await asyncio.open_unix_connection(feed.path))
            assert await other.rest() == []
            await other.close()
            listener.end()
            await listener.rest()
        async with listening(feed, {"tail": 0}) as (listener, _):
            feed.publish(entry())
            assert await listener.numbers(1) == [1]

    run(tmp_path, test)


def test_the_end(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        async with listening(feed, {"tail": 0}) as (listener, _):
            feed.publish(entry())
            assert await listener.numbers(1) == [1]
            feed.publish(entry("last words"))
            feed.close()
            assert [line["message"] for line in await listener.rest()] == ["last words"]
            assert not os.path.exists(feed.path)
            feed.publish(entry("to nobody"))

    run(tmp_path, test)


def test_a_listener_that_is_stuck_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        async with listening(feed, {"since": 1}) as (listener, _):
            for _ in range(3000):
                feed.publish(entry("x" * 1000))
            await listener.numbers(1)
            for _ in range(20):
                await asyncio.sleep(0)
            feed.close()
            assert len((await listener.rest_bytes()).splitlines()) < 3000  # the last of them torn

    run(tmp_path, test)


def test_the_file(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        status = os.stat(feed.path)
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        with pytest.raises(OSError, match="another process listens on it") as caught:
            await Feed(feed.path).start()
        assert caught.value.errno == errno.EADDRINUSE
        # somebody moved it away and took its place: that one is not ours to remove
        os.unlink(feed.path)
        Path(feed.path).write_text("")
        feed.close()
        assert os.path.exists(feed.path)
        with pytest.raises(FileExistsError):
            await Feed(feed.path).start()

    run(tmp_path, test)


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "feed.sock"))

    async def test(feed: Feed) -> None:
        async with listening(feed) as (_, greeting):
            assert greeting["instance"] == feed.instance

    run(tmp_path, test)


def test_a_group(tmp_path: Path) -> None:
    import grp

    name = grp.getgrgid(os.getgid()).gr_name

    async def test(feed: Feed) -> None:
        assert stat.S_IMODE(os.stat(feed.path).st_mode) == 0o660

    run(tmp_path, test, group=name)

    async def unknown() -> None:
        with pytest.raises(OSError, match="there is no group"):
            await Feed(tmp_path / "other.sock", group="no-such-group").start()

    asyncio.run(unknown())
    assert list(tmp_path.iterdir()) == []


@given(st.text(st.characters()), st.text(st.characters()))
def test_every_entry_is_one_line(message: str, name: str) -> None:
    feed = Feed("/nowhere")
    feed.publish(entry(message, server_name=name, fields={name: message}))
    line = feed.line(1)
    assert line.isascii()
    assert line.count(b"\n") == 1
    value = json.loads(line)
    assert value["message"] == json.loads(json.dumps(message))  # which joins surrogates
    assert list(value["fields"].values()) == [value["message"]]
    assert feed.line(1) is line

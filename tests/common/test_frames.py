"""Where a thread or a task is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from fcgi_core.common.frames import FRAMES, frames_of_awaitable, frames_of_thread


def test_coroutines_that_wait_for_each_other() -> None:
    async def inner() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    async def test() -> None:
        coroutine = outer()
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0)
        text = frames_of_awaitable(coroutine)
        assert [text.count(f"in {name}\n") for name in ("outer", "inner", "wait")] == [1, 1, 1]
        assert text.index("in outer") < text.index("in inner") < text.index("in wait")
        task.cancel()
        await asyncio.wait((task,))
        assert frames_of_awaitable(coroutine) == "", "it has ended"

    asyncio.run(test())


def test_deep_ones_are_bounded() -> None:
    async def deeper(more: int) -> None:
        await deeper_again(more - 1)

    async def deeper_again(more: int) -> None:
        await (deeper(more - 1) if more > 0 else asyncio.Event().wait())

    async def test() -> None:
        coroutine = deeper(FRAMES * 2)
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0)
        assert frames_of_awaitable(coroutine).count("  File ") == FRAMES
        task.cancel()
        await asyncio.wait((task,))

    asyncio.run(test())


def test_generators() -> None:
    def generator() -> Iterator[None]:
        yield

    async def pieces() -> AsyncIterator[None]:
        yield

    begun, asynchronous = generator(), pieces()
    next(begun)
    assert "in generator" in frames_of_awaitable(begun)
    assert "in pieces" in frames_of_awaitable(asynchronous)


def test_what_has_no_frames() -> None:
    assert frames_of_awaitable(None) == frames_of_awaitable(object()) == frames_of_thread(None) == ""

"""A loop that stands still, and one that does not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from fcgi_core.common.operator_log import LineFormatter
from fcgi_core.process.standstill import StandstillWatch

PATIENCE = 30.0


class Heard(logging.Handler):
    """Messages as the operator has them, and an event for whoever waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.one_more = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(LineFormatter("%(message)s").format(record))
        self.one_more.set()


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    logger = logging.getLogger("fcgi_sctp.loop")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def a_hook_that_blocks(until: threading.Event) -> None:
    assert until.wait(PATIENCE)


def test_a_loop_that_stands_still_is_reported_with_its_frames(heard: Heard) -> None:
    async def main() -> None:
        watch = StandstillWatch(beat=0.02, tell_after=0.1)
        watch.start()
        a_hook_that_blocks(heard.one_more)  # ends when it has been told of, and not before
        assert len(heard.messages) == 1
        async with asyncio.timeout(PATIENCE):
            while len(heard.messages) < 2:
                await asyncio.sleep(0.01)
        watch.stop()

    asyncio.run(main())
    told, over = heard.messages
    assert "has stood still for" in told
    assert "in a_hook_that_blocks" in told
    assert "until.wait" in told
    assert over.startswith("the event loop runs again after")


def test_a_loop_that_runs_is_not_reported(heard: Heard) -> None:
    async def main() -> None:
        watch = StandstillWatch(beat=0.005, tell_after=PATIENCE)
        watch.start()
        for _ in range(10):
            await asyncio.sleep(0.005)
        watch.stop()

    asyncio.run(main())
    assert heard.messages == []


def test_a_log_whose_lock_is_held_does_not_end_the_watch(heard: Heard) -> None:
    looks = threading.Semaphore(0)
    assert heard.lock is not None
    with heard.lock:  # as the loop's thread may, while it stands still in writing

        async def main() -> None:
            watch = StandstillWatch(looks.release, beat=0.01, tell_after=0.05)
            watch.start()
            before_it_is_told = 20
            for _ in range(before_it_is_told + 20):
                assert looks.acquire(timeout=PATIENCE)
            assert heard.messages == []
            heard.lock.release()  # type: ignore[union-attr]
            assert heard.one_more.wait(PATIENCE)
            heard.lock.acquire()  # type: ignore[union-attr]
            watch.stop()

        asyncio.run(main())

"""What a fork makes of signals that its parent's loop handles."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from fcgi_core.common import signals
from tests.app.harness import until

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def uvloop() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signals._handled.clear()


def fork(work: Callable[[], int]) -> int:
    """A child that ends with what `work` returns."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return child


def stay() -> int:
    threading.Event().wait(60)
    return 98


def handlers_are_the_former() -> int:
    right = all(
        signal.getsignal(number) == (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        for number in NUMBERS
    )
    return 0 if right and signal.set_wakeup_fd(-1) == -1 and not signal.pthread_sigmask(signal.SIG_BLOCK, ()) else 1


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop])
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_fork_has_the_former_handlers_and_its_signals_are_its_own(
    make_loop: Callable[[], asyncio.AbstractEventLoop], in_thread: bool
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    came: list[signal.Signals] = []

    async def in_child(work: Callable[[], int]) -> int:
        """The status that the child ended with."""
        child = await asyncio.to_thread(fork, work) if in_thread else fork(work)
        if work is stay:
            os.kill(child, signal.SIGTERM)
        return os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1])

    async def test() -> None:
        loop = asyncio.get_running_loop()
        for number in NUMBERS:
            signals.handle(loop, number, lambda number=number: came.append(number))  # type: ignore[misc]
        assert await in_child(handlers_are_the_former) == 0
        assert await in_child(stay) == -signal.SIGTERM
        assert not came
        os.kill(os.getpid(), signal.SIGTERM)  # the parent's own work as before
        await until(lambda: came, "the parent handles its signal")
        assert came == [signal.SIGTERM]

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(test())


def test_a_handler_of_the_application_stays() -> None:
    def own(number: int, frame: object) -> None: ...

    async def test() -> None:
        signals.handle(asyncio.get_running_loop(), signal.SIGUSR1, lambda: None)
        signal.signal(signal.SIGUSR1, own)
        child = fork(lambda: 0 if signal.getsignal(signal.SIGUSR1) is own else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    asyncio.run(test())


def test_an_ignored_signal_is_ignored_in_a_fork() -> None:
    """As by nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def test() -> None:
        for _ in range(2):
            signals.handle(asyncio.get_running_loop(), signal.SIGHUP, lambda: None)
        child = fork(lambda: 0 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    asyncio.run(test())

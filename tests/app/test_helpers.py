"""Which threads and tasks work for a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgiref.sync import sync_to_async

from fcgi_core.app.helpers import MOST_SHOWN, BoundThreads, Helpers
from fcgi_core.plugin import bound_to_request, current_request
from tests.app.harness import until

Function = Callable[[], None]


async def by_asyncio(function: Function) -> None:
    await asyncio.to_thread(function)


async def by_executor(function: Function) -> None:
    await asyncio.get_running_loop().run_in_executor(None, function)


async def by_anyio(function: Function) -> None:
    await anyio.to_thread.run_sync(function)


async def by_asgiref(function: Function) -> None:
    await sync_to_async(function)()


class Request:
    """Stands for a request."""


@pytest.mark.parametrize("runs", [by_asyncio, by_executor, by_anyio, by_asgiref])
def test_a_thread_works_for_the_request_whose_task_gave_it_the_work(runs: Callable[[Function], Any]) -> None:
    gate, begun = threading.Event(), threading.Event()
    seen: list[Any] = []

    def works() -> None:
        seen.append(current_request())
        begun.set()
        gate.wait(10)

    async def run(request: Any, function: Function) -> None:
        with bound_to_request(request):
            await runs(function)

    async def test() -> None:
        asyncio.get_running_loop().set_default_executor(BoundThreads())
        one: Any = Request()
        await run(Request(), lambda: None)
        await until(lambda: not Helpers().threads, "one that is idle works for none")
        task = asyncio.create_task(run(one, works))
        await until(begun.is_set, "it works")
        assert seen == [one]
        helpers = Helpers()
        assert list(helpers.threads) == [one]
        assert "in works\n" in helpers.where(one, task)
        gate.set()
        await task
        await until(lambda: not Helpers().threads, "it is idle")

    asyncio.run(test())


def test_tasks_that_a_request_started() -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    async def test() -> None:
        one: Any = Request()
        with bound_to_request(one):
            tasks = [asyncio.create_task(waits()) for _ in range(MOST_SHOWN + 2)]
        other = asyncio.create_task(waits())
        await asyncio.sleep(0)
        helpers = Helpers()
        assert set(helpers.tasks[one]) == set(tasks)
        assert helpers.where(one, tasks[0]).count("in waits\n") == MOST_SHOWN
        assert helpers.where(Request(), other) == ""
        for task in (*tasks, other):
            task.cancel()
        await asyncio.wait((*tasks, other))

    asyncio.run(test())

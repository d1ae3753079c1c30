"""Fixtures that run the whole road, and the logs of its programs beside each failure."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.system.stack import Stack

_running: list[Stack] = []
"""Stacks under way, those of fixtures with a wider scope included."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        for item in items:
            if "tests/system/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="nginx is not installed (script/setup test)"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        report.sections += [(f"programs in {stack.folder}", stack.logs()) for stack in _running]
    return report


def _starter() -> Iterator[Callable[..., Stack]]:
    with ExitStack() as stack:

        def start(*args: Any, kind: type[Stack] = Stack, **named: Any) -> Stack:
            started = kind(*args, **named)
            _running.append(started)
            stack.callback(_running.remove, started)
            return stack.enter_context(started)

        yield start


@pytest.fixture
def start() -> Iterator[Callable[..., Stack]]:
    """Starts a `Stack` for one test, which may do to it what it likes."""
    yield from _starter()


@pytest.fixture(scope="module")
def start_for_module() -> Iterator[Callable[..., Stack]]:
    """Starts a `Stack` that the tests of a module share."""
    yield from _starter()

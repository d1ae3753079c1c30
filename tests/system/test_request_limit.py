"""Requests that hang: each gets 504, the site answers others again by itself, and the log says where they hang."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.system.stack import PATIENCE, Stack, in_background, wait_until

Start = Callable[..., Stack]
HANGING = 50
LONG = 4 * PATIENCE
"""Seconds for several rounds of hanging requests, one after the other."""


def ask(stack: Stack, path: str) -> int:
    connection = stack.connect(timeout=LONG)
    try:
        return stack.ask(path, connection=connection).status
    finally:
        connection.close()


def over_limit(stack: Stack, app: dict[str, Any]) -> int:
    workers = range(app["workers"]) if app.get("workers") else [None]
    try:
        return sum(stack.status("app0", worker)["requests"]["over_limit"] for worker in workers)
    except subprocess.CalledProcessError:
        return 0  # a worker is being replaced


def frames(stack: Stack, function: str) -> int:
    return len(re.findall(rf"^    .* in {function}$", stack.app.text, re.MULTILINE))


@pytest.mark.parametrize(
    ("application", "where", "workers"),
    [
        ("wsgi", "a_lock_that_nobody_releases", 1),
        ("wsgi", "a_lock_that_nobody_releases", 2),
        ("wsgi", "a_lock_that_nobody_releases", None),
        ("asgi", "a_reply_that_never_comes", 1),
    ],
)
def test_fifty_requests_that_hang(start: Start, application: str, where: str, workers: int | None) -> None:
    app: dict[str, Any] = {"workers": workers, "request_limit": 2, "threads": 20}
    web = {"queue_timeout": LONG}  # so long do those wait that find no thread, and hang in a later worker
    stack = start(f"hanging_applications:{application}", app=app, web=web, throws=True)
    with in_background(*[lambda: ask(stack, "/hang")] * HANGING) as answers:
        # most of them hang, or wait for a thread: a request to a site that is full waits for its turn among them
        assert ask(stack, "/") == 200
        assert answers() == [504] * HANGING
    assert ask(stack, "/") == 200
    wait_until(lambda: over_limit(stack, app) == HANGING, "the status counts them, those of replaced workers too")
    assert stack.app.text.count("longer than app.request_limit, and is ended: GET /hang, in:") == HANGING
    assert frames(stack, where) == HANGING
    replaced = stack.app.text.count("this worker is replaced")
    assert (replaced > 0) is (application == "wsgi" and workers is not None)
    assert "is killed" not in stack.app.text


def test_a_task_that_does_not_end_has_its_worker_replaced(start: Start) -> None:
    stack = start("hanging_applications:asgi", app={"workers": 1, "request_limit": 1}, throws=True)
    before = stack.ask("/").body
    assert ask(stack, "/stubborn") == 504
    wait_until(lambda: stack.ask("/").body != before, "another worker answers")
    assert "this worker is replaced" in stack.app.text
    assert "is killed" not in stack.app.text


def test_a_thread_of_the_application_that_hangs_does_not_hold_up_the_end(start: Start) -> None:
    """Python waits without end for such threads; the task that waited for it has ended."""
    stack = start("hanging_applications:asgi", app={"workers": 1, "request_limit": 1}, throws=True)
    assert ask(stack, "/thread") == 504
    assert stack.app.stop() == 0
    assert "is killed" not in stack.app.text


def test_a_thread_that_works_for_a_task_and_hangs_has_its_worker_replaced(start: Start) -> None:
    stack = start("hanging_applications:asgi", app={"workers": 1, "request_limit": 1}, throws=True)
    before = stack.ask("/").body
    assert ask(stack, "/thread") == 504
    assert frames(stack, "a_lock_that_nobody_releases") == 1
    wait_until(lambda: stack.ask("/").body != before, "another worker answers")
    assert "this worker is replaced" in stack.app.text


def test_an_event_loop_that_stands_still(start: Start) -> None:
    """The parent replaces the worker, whose threads write where they are. The other does not get the request, which
    would block it, too."""
    stack = start("hanging_applications:asgi", app={"workers": 2, "request_limit": 6}, throws=True)
    wait_until(lambda: stack.web.text.count(" is up") == 2, "both workers are up")
    with in_background(lambda: stack.ask("/block").status) as answer:
        stack.app.says("has stood still for")
        assert stack.ask("/").status == 200
        assert answer() == [502]
    stack.app.says("longer than app.request_limit; the worker is replaced")
    assert "most recent call first" in stack.app.text
    assert "in a_lock_that_nobody_releases" in stack.app.text
    assert stack.app.text.count("the worker is replaced") == 1

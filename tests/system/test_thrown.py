"""What the application throws."""

from __future__ import annotations

import http.client
from collections.abc import Callable

import pytest

from tests.system.stack import Stack


@pytest.fixture(scope="module")
def stack(start_for_module: Callable[..., Stack]) -> Stack:
    return start_for_module(throws=True)


def test_before_anything_was_sent(stack: Stack) -> None:
    answer = stack.ask("/crash")
    assert answer.status == 500
    assert b"RuntimeError" not in answer.body, "the client learns nothing of the inside"
    stack.app.says("RuntimeError: crash")


@pytest.mark.parametrize("path", ["/crash-late", "/crash-late?length=5000", "/exc-info-late"])
def test_after_the_head_was_sent(stack: Stack, path: str) -> None:
    """The answer is seen to be cut."""
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        stack.ask(path)


def test_the_next_request_is_served(stack: Stack) -> None:
    assert stack.ask("/hello").body == b"hello"

"""Applications that fork: the child's signals are its own, and the service goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.system.stack import Stack

Start = Callable[..., Stack]
KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("wsgi", {}, ""),
    ("wsgi", {"workers": 1}, ""),
    ("asgi", {}, ""),
    ("asgi", {}, "?loop"),
]


@pytest.mark.parametrize(("interface", "app", "query"), KINDS)
def test_a_child_that_is_terminated_ends_and_the_service_goes_on(
    start: Start, interface: str, app: dict[str, Any], query: str
) -> None:
    stack = start(application=f"forking_applications:{interface}", app=app)
    before = stack.ask("/").body
    for _ in range(2):
        assert stack.ask(f"/terminated{query}").body == b"-15"
        assert stack.ask(f"/pooled{query}").body == b"[1]"
    assert stack.ask("/").body == before, "the process is the same one"
    assert "stopping" not in stack.app.text

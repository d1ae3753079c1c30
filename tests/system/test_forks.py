"""Applications that fork: the child's signals are its own, and the service goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.system.stack import Stack, wait_until

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


@pytest.mark.parametrize(("interface", "query"), [("wsgi", ""), ("asgi", "?loop")])
def test_a_child_that_comes_back_into_our_code_ends_there(start: Start, interface: str, query: str) -> None:
    """It would go on in its parent's place, with the parent's sockets."""
    stack = start(application=f"forking_applications:{interface}", throws=True)
    before = stack.ask("/").body
    for how, status in (("returns", b"0"), ("exits", b"3"), ("raises", b"1")):
        assert stack.ask(f"/forked/{how}{query}").body == status, how
    assert stack.ask("/").body == before


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_lines_of_children_reach_the_feed_with_their_request(start: Start, interface: str) -> None:
    plugins = {"syslog": {"capture": ["logging", "stderr", "exceptions", "output"]}}
    stack = start(application=f"forking_applications:{interface}", plugins=plugins, throws=True)
    # on an executor's thread Python's own multiprocessing ends such a child with 1 (its main thread joins itself)
    assert stack.ask("/talking" + ("?loop" if interface == "asgi" else "")).body == b"0"
    said = ["logged in a child", "printed in a child", "printed on stderr in a child", "caught in a child"]
    if interface == "wsgi":
        said.append("written to wsgi.errors in a child")
    for text in said:
        (line,) = stack.lines_with(text)
        assert line["server_name"] == "shop.example", text
        assert line["request"], text
    (line,) = stack.lines_with("logged in a child")
    assert line["fields"]["process"].isdigit()


def test_without_the_plugin_a_childs_wsgi_errors_are_on_stderr(start: Start) -> None:
    stack = start(application="forking_applications:wsgi", throws=True)
    assert stack.ask("/talking").body == b"0"
    wait_until(lambda: "written to wsgi.errors in a child" in stack.app.text, "it is on stderr")


def test_a_child_that_outlives_a_killed_parent_keeps_neither_its_address_nor_its_associations(start: Start) -> None:
    stack = start(application="forking_applications:left")
    child = int(stack.ask("/").body)
    try:
        stack.app.send(signal.SIGKILL)
        stack.app.wait()
        other = stack.start_app()
        other.says("ready")
        other.says("is up")
        assert stack.ask("/pid").body == str(other.pid).encode()
        os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)
    assert other.stop() == 0

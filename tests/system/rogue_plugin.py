"""A plugin that does what none should, for tests/system/test_plugins.py: it raises, blocks, floods, leaks and hangs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from fcgi_core.plugin import (
    ApplicationHalf,
    AssociationInfo,
    Channel,
    Host,
    Outcome,
    Plugin,
    PluginError,
    RequestInfo,
    Scope,
    Stream,
    WebHalf,
)


def spin() -> None:
    while True:
        pass


def wait_for_a_lock() -> None:
    lock = threading.Lock()
    with lock, lock:
        pass


def swallow() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass


HANGS: dict[str, Callable[[], object]] = {
    "spin": spin,
    "sleep": lambda: time.sleep(3600),
    "lock": wait_for_a_lock,
    "swallow": swallow,
    "backtrack": lambda: re.match("(a+)+$", "a" * 60 + "b"),
}
"""Ways not to return."""


Does = Literal["nothing", "raise", "block", "flood", "leak", "spin", "sleep", "lock", "swallow", "backtrack"]


class RoguePlugin(Plugin):
    """Does what no plugin should."""

    name = "rogue"
    version = "6.6"

    class Options(Plugin.Options):
        does: Does = "nothing"
        """What it does in each request."""

    def channels(self, options: Any) -> list[Channel]:
        return [Channel("rogue"), Channel("rogue.request", Scope.REQUEST)]

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        return Rogue(host, options)

    def web_half(self, host: Host, options: Any) -> WebHalf:
        return Victim(host, options)


class Rogue(ApplicationHalf):
    def __init__(self, host: Host, options: Any) -> None:
        self.host = host
        self.options = options
        self.leaked: list[Stream] = []

    def configure(self, options: Any, server_name: str | None = None) -> None:
        self.options = options

    def request_begin(self, request: RequestInfo) -> None:
        does = self.options.does
        if does == "raise":
            raise RuntimeError("this is what it does")
        if does in HANGS:
            HANGS[does]()
        if does == "block":
            time.sleep(0.3)  # it is meant to
        if does == "flood":
            for _ in range(2000):
                self.host.send("rogue", bytes(1000))
                self.host.send("rogue.request", bytes(1000), request=request)
        if does == "leak":
            try:
                for _ in range(1000):
                    stream = self.host.open_stream("rogue.request", request)
                    stream.send(b"x")
                    self.leaked.append(stream)
            except PluginError:
                pass


class Victim(WebHalf):
    def __init__(self, host: Host, options: Any) -> None:
        self.options = options

    def configure(self, options: Any, server_name: str | None = None) -> None:
        self.options = options

    def request_begin(self, request: RequestInfo) -> None:
        if self.options.does in HANGS:
            HANGS[self.options.does]()

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        if self.options.does == "raise":
            raise RuntimeError("here too")

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        pass


plugin = RoguePlugin

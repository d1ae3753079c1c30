"""A plugin that does what none should, for tests/system/test_plugins.py: it raises, blocks, floods and leaks."""

from __future__ import annotations

import time
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


class RoguePlugin(Plugin):
    """Does what no plugin should."""

    name = "rogue"
    version = "6.6"

    class Options(Plugin.Options):
        does: Literal["nothing", "raise", "block", "flood", "leak"] = "nothing"
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

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        if self.options.does == "raise":
            raise RuntimeError("here too")

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        pass


plugin = RoguePlugin

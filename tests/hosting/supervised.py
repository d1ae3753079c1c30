"""What the tests of running plugins share: a supervisor of one that remembers what it hears, and a loop by hand."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Literal

from fcgi_core.errors import StartAnew
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.hosting.links import Link
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.plugin import ApplicationHalf, AssociationInfo, FromPeer, Host, Outcome, Plugin, RequestInfo, WebHalf
from fcgi_core.protocol.channels import Channel
from tests.protocol.helpers import Pair, idle

ANY: Any = object()
OVER = Outcome(status=200, duration=0.1, first_byte=None, bytes_in=0, bytes_out=0)


class VirtualLoop:
    """A loop whose time is moved by the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._due: list[tuple[float, int, Callable[[], Any], list[bool]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Any:
        alive = [True]
        heapq.heappush(self._due, (when, next(self._order), lambda: callback(*args), alive))

        class Handle:
            def cancel(self) -> None:
                alive[0] = False

        return Handle()

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Any:
        return self.call_at(self.now, callback, *args)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, call, alive = heapq.heappop(self._due)
            if alive[0]:
                call()
        self.now = until


class Recorder(WebHalf):
    def __init__(self, options: Any) -> None:
        self.options = {None: options}
        self.items: list[bytes] = []
        self.committed = 0
        self.broken = False
        self.closed = False
        self.up = 0

    def association_up(self, association: AssociationInfo) -> None:
        self.up += 1

    def close(self) -> None:
        self.closed = True

    def configure(self, options: Any, server_name: str | None = None) -> None:
        if options.level == "forbidden":
            raise ValueError("not this one")
        if options.level == "anew":
            raise StartAnew("it takes another half")
        self.options[server_name] = options

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.items.append(item)

    def commit(self) -> None:
        if self.broken:
            raise OSError("disk full")
        self.committed += 1


class Example(Plugin):
    name = "example"

    class Options(Plugin.Options):
        level: FromPeer[Literal["low", "high", "forbidden", "anew"]] = "low"
        wide: bool = False

    half: Recorder

    def channels(self, options: Any) -> list[Channel]:
        more = [Channel("example.more")] if options.wide else []
        return [Channel("example"), Channel("example.sure", acknowledged=True), *more]

    def web_half(self, host: Host, options: Any) -> WebHalf:
        self.half = Recorder(options)
        return self.half

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        return ApplicationHalf()


def start(options: Mapping[str, Any] | None = None) -> tuple[Supervisor, Recorder, VirtualLoop]:
    plugin = Example()
    loop = VirtualLoop()
    supervisor = Supervisor(
        load_plugins({"example": options or {}}, {"example": plugin}.__getitem__), loop, lambda call: call(), web=True
    )
    return supervisor, plugin.half, loop


def linked(supervisor: Supervisor, peer: str = "peer") -> tuple[Pair, Link]:
    pair = Pair(channels=tuple(supervisor.channels))
    return pair, supervisor.association_up(idle(pair.web), 1, peer)

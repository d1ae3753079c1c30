"""A plugin whose hooks do what a test says, and what ends them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.hosting.hook_limit import SIGNAL, HookLimit
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.plugin import ApplicationHalf, AssociationInfo, Channel, Host, Outcome, Plugin, RequestInfo
from tests.hosting.supervised import VirtualLoop

ANY: Any = object()
FOR_EVER = 3600.0
PATIENCE = 30.0


class Hanging(ApplicationHalf):
    """Does what it is told in each of its hooks."""

    def __init__(self, host: Host) -> None:
        self.does: Callable[[], object] = bool
        self.is_in = threading.Event()
        self.calls = 0
        self.gathering = host.gather("hanging", self.make)

    def _do(self) -> None:
        self.calls += 1
        self.is_in.set()
        self.does()

    def request_begin(self, request: RequestInfo) -> None:
        self._do()

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        self._do()

    def tick(self) -> None:
        self._do()

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        self._do()
        return True

    def configure(self, options: Any, server_name: str | None = None) -> None:
        self._do()

    def close(self) -> None:
        self._do()

    def make(self, crowded: bool) -> list[tuple[bytes, int, AssociationInfo | None]]:
        self._do()
        return []


class HangingPlugin(Plugin):
    name = "hanging"
    half: Hanging

    class Options(Plugin.Options):
        level: int = 0

    def channels(self, options: Any) -> list[Channel]:
        return [Channel("hanging")]

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        self.half = Hanging(host)
        return self.half


class Side:
    """A supervisor with the plugin, and what ends its hooks."""

    def __init__(self, seconds: float = 0.001) -> None:
        plugin = HangingPlugin()
        self.loop = VirtualLoop()
        plugins = load_plugins({"hanging": {}}, {"hanging": plugin}.__getitem__)
        self.supervisor = Supervisor(plugins, self.loop, lambda call: call(), web=False)
        self.half = plugin.half
        self.limit = HookLimit(self.supervisor, seconds)

    @property
    def state(self) -> str:
        return str(self.supervisor.statistics()[0]["state"])

    @property
    def errors(self) -> int:
        return int(self.supervisor.statistics()[0]["errors"])

    def begin(self) -> None:
        self.supervisor.request_begin(ANY)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A thread looks again and again, from when the hook is in what it does."""
        over = threading.Event()

        def watch() -> None:
            assert self.half.is_in.wait(PATIENCE)
            while not over.wait(0.005):
                self.limit.look()

        self.limit.install()
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            self.half.is_in.set()
            over.set()
            thread.join()
            self.limit.remove()


# ---- the race: it has returned, another one runs, nobody runs


def raise_if_late(limit: HookLimit) -> None:
    limit.on_signal(SIGNAL, sys._getframe())

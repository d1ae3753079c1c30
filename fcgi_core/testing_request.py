"""The request of the test kit (`testing.py`); apart, because what inherits from a compiled class is compiled too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .hosting.delivery import Link
from .hosting.exchange import Exchange
from .protocol.request import Request

__all__ = ["HarnessRequest"]


class HarnessRequest(Exchange):
    """A request as one half sees it: `identity`, `params`, `plugin_data`."""

    __slots__ = ("_clock", "ended")

    def __init__(self, clock: Callable[[], float], link: Link, request: Request) -> None:
        super().__init__()
        self._clock = clock
        self.began = clock()
        self.link = link
        self.request = request
        self.ended = False

    @property
    def params(self) -> Mapping[str, str]:
        return self.request.params

    @property
    def raw_params(self) -> bytes:
        return self.request.raw_params

    def _made_identity(self) -> str:
        return f"test.1.{self.request.id}.{self.request.generation}"

    def _now(self) -> float:
        return self._clock()

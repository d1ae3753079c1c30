"""Tells when the event loop stands still, and in what: a hook of a plugin, say, that waits for something.

Everything of a process goes through its loop, so nothing on it can tell. A thread looks at whether the loop's beat
comes, and if not, where the loop's thread is: its frames name the plugin, and the line that blocks.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

__all__ = ["StandstillWatch"]

log = logging.getLogger("fcgi_sctp.loop")

BEAT = 0.5
"""Seconds between beats, and between looks."""
TELL_AFTER = 2.0
"""Seconds without a beat that are told; `dead_after` may be as short, and then the peer gives up."""
FRAMES = 20
"""The innermost ones, that are told."""


class StandstillWatch:
    """Watches the loop that it is started on, from a daemon thread."""

    def __init__(
        self, look: Callable[[], None] = lambda: None, *, beat: float = BEAT, tell_after: float = TELL_AFTER
    ) -> None:
        """`look` is called on the thread, whenever it looks itself."""
        self._look = look
        self._beat = beat
        self._tell_after = tell_after
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_watched = 0
        self._last = 0.0
        self._told = False
        self._handle: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="standstill watch", daemon=True)

    def start(self) -> None:
        """On the loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread_watched = threading.get_ident()
        self._last = time.monotonic()
        self._handle = self._loop.call_later(self._beat, self._on_beat)
        self._thread.start()

    def stop(self) -> None:
        """On the loop's thread."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._stop.set()
        self._thread.join()

    def _on_beat(self) -> None:
        assert self._loop is not None
        now = time.monotonic()
        if self._told:
            log.warning("the event loop goes on after %.1f s", now - self._last)
            self._told = False
        self._last = now
        self._handle = self._loop.call_later(self._beat, self._on_beat)

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(self._beat):
            now = time.monotonic()
            overslept = now - looked > 2 * self._beat
            looked = now
            if overslept:
                continue  # this thread did not run either: the process was stopped, or the machine had no time for it
            if not self._told and now - self._last >= self._tell_after:
                # on a thread of its own: the one that stands still may hold a lock of the log's, and this one goes on
                telling = threading.Thread(target=self._tell, args=(now,), name="standstill", daemon=True)
                telling.start()
                telling.join(self._beat)
            self._look()
            looked = time.monotonic()  # what both took is no sleep

    def _tell(self, now: float) -> None:
        frame = sys._current_frames().get(self._thread_watched)
        if frame is not None:
            self._told = True
            frames = {"frames": _where(frame)}
            log.error("the event loop has stood still for %.1f s, in:", now - self._last, extra=frames)


def _where(frame: FrameType) -> str:
    return "".join(traceback.format_stack(frame)[-FRAMES:]).rstrip()

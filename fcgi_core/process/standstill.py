"""Reports when the event loop stands still, and where: in a hook of a plugin that blocks, for example.

All work of a process runs on its loop, so nothing on the loop can report that. A thread checks whether the loop's beat
comes. If not, the frames of the loop's thread name the plugin and the line that blocks.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable

from ..common.frames import frames_of_thread

__all__ = ["StandstillWatch"]

log = logging.getLogger("fcgi_sctp.loop")

BEAT = 0.5
"""Seconds between beats, and between checks."""
TELL_AFTER = 2.0
"""Seconds without a beat after which the log reports it; `dead_after` may be as short, and then the peer gives up."""


class StandstillWatch:
    """Watches the loop on which it is started, from a daemon thread."""

    def __init__(
        self, look: Callable[[], None] = lambda: None, *, beat: float = BEAT, tell_after: float = TELL_AFTER
    ) -> None:
        """`look` is called on the thread at each check. `tell_after` is in seconds, as TELL_AFTER."""
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
        """Start the watch. To be called on the loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread_watched = threading.get_ident()
        self._last = time.monotonic()
        self._handle = self._loop.call_later(self._beat, self._on_beat)
        self._thread.start()

    def stop(self) -> None:
        """Stop the watch and wait for its thread. To be called on the loop's thread."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._stop.set()
        self._thread.join()

    def _on_beat(self) -> None:
        assert self._loop is not None
        now = time.monotonic()
        if self._told:
            log.warning("the event loop runs again after %.1f s", now - self._last)
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
                continue  # this thread did not run either: the process was stopped, or the machine was overloaded
            if not self._told and now - self._last >= self._tell_after:
                # on a separate thread: the loop's thread may hold a lock of the log, and this thread must go on
                telling = threading.Thread(target=self._tell, args=(now,), name="standstill", daemon=True)
                telling.start()
                telling.join(self._beat)
            self._look()
            looked = time.monotonic()  # the time of both calls does not count as oversleeping

    def _tell(self, now: float) -> None:
        frame = sys._current_frames().get(self._thread_watched)
        if frame is not None:
            self._told = True
            frames = {"frames": frames_of_thread(frame)}
            log.error("the event loop has stood still for %.1f s, in:", now - self._last, extra=frames)

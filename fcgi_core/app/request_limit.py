"""Ends requests that take too long (`app.request_limit`), as uwsgi's harakiri and php-fpm's request_terminate_timeout
do.

Nothing is done for a request that is in time: a look each second walks over the oldest requests of each association. A
request over the limit is logged with the frames in which it is, and answered with 504, or cut if its response has
begun. A task is cancelled. A thread cannot be ended, neither a request's own nor one that works for a task; another
thread takes the place of a request's own at once. A thread that has not come back a moment later, or a task that has
not ended, hangs, and only the end of the process ends it. So the parent of a worker, which hears of it, replaces the
worker.

The time begins when the application begins with the request, and anew whenever it has waited for a slow client. The web
server may give requests that are meant to last more time, or no limit, with a variable of CGI.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable

from ..common.loop import Handle, Loop
from ..common.text import escape_word, name_of_request
from ..protocol.request import Request
from .exchange import AppExchange, Work
from .helpers import Helpers

__all__ = ["RequestLimit"]

log = logging.getLogger("fcgi_sctp.app")

LONGER = "FCGI_SCTP_REQUEST_LIMIT"
"""The variable that gives a request more seconds, or ``off``. No header of a client becomes one of this name."""
LOOK = 1.0
"""Seconds between looks; a request is ended so much later at most."""
RETURN_WITHIN = 2.0
"""Seconds after the end of its request in which a thread must come back, and a task must end."""
MOST_AT_ONCE = 100
"""Requests that one look ends: their frames are written on the event loop, where all requests wait meanwhile."""


class RequestLimit:
    """Watches the requests of an application side. Everything runs on the loop's thread."""

    def __init__(
        self,
        requests: Callable[[], Iterable[Iterable[Request]]],
        seconds: float,
        loop: Loop,
        *,
        is_replaced: bool = False,
    ) -> None:
        """`requests` returns the requests of each association, the oldest first. `is_replaced`: whether another process
        takes the place of this one when something hangs."""
        self._requests = requests
        self._seconds = seconds
        self._loop = loop
        self._is_replaced = is_replaced
        self._ending: dict[Work, float] = {}
        """What has not come back yet, and when its request was ended."""
        self._hanging: set[Work] = set()
        """What did not come back in time."""
        self._handle: Handle | None = None

    @property
    def hanging(self) -> int:
        """Threads and tasks that hang: they do not come back although their requests have ended."""
        return len(self._hanging)

    def start(self) -> None:
        self._handle = self._loop.call_at(self._loop.time() + LOOK, self._look)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _look(self) -> None:
        self.start()  # before all that could go wrong
        now = time.monotonic()
        helpers = Helpers()
        for exchange in self._late(now)[:MOST_AT_ONCE]:
            self._end(exchange, now, helpers)
        self._look_at_ends(now, helpers)

    def _late(self, now: float) -> list[AppExchange]:
        late = []
        limit = now - self._seconds
        for requests in self._requests():
            for request in requests:
                exchange: AppExchange | None = request.context
                if exchange is None:
                    continue  # it is not whole yet, or has ended
                if exchange.began > limit:
                    break  # the others are younger
                busy_since = exchange.busy_since
                if busy_since <= limit and exchange.work is not None and now - busy_since >= _limit_of(exchange):
                    late.append(exchange)
        return late

    def _end(self, exchange: AppExchange, now: float, helpers: Helpers) -> None:
        work = exchange.work
        assert work is not None
        exchange.shared.supervisor.requests_over_limit += 1
        where = work.where(helpers)
        log.error(
            "request %s to %s has run for %.1f s, longer than app.request_limit, and is ended: %s%s",
            exchange.identity,
            escape_word(exchange.server_name),
            now - exchange.busy_since,
            name_of_request(exchange.params),
            ", in:" if where else "",
            extra={"frames": where},
        )
        work.give_up(f"it ran for longer than app.request_limit ({self._seconds:g} s)")
        if not work.has_returned(helpers):
            self._ending[work] = now

    def _look_at_ends(self, now: float, helpers: Helpers) -> None:
        self._hanging = {work for work in self._hanging if not work.has_returned(helpers)}
        hanging = []
        for work, since in tuple(self._ending.items()):
            if work.has_returned(helpers):
                del self._ending[work]
            elif now - since >= RETURN_WITHIN:
                del self._ending[work]
                hanging.append(work)
        if not hanging:
            return
        self._hanging.update(hanging)
        log.error(
            "%d requests hang: their threads or tasks go on after the end of app.request_limit; %s",
            len(hanging),
            "this worker is replaced when its turn comes"
            if self._is_replaced
            else "this process goes on without them, and only a restart ends them (app.workers restarts by itself)",
        )
        for work in hanging:
            work.write_off()


def _limit_of(exchange: AppExchange) -> float:
    """Return the seconds that the web server gives the request; 0 if it says nothing that can be understood."""
    given = exchange.params.get(LONGER, "")
    if given == "off":
        return math.inf
    return int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0.0

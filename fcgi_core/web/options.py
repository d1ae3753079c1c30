"""The options of the web side: those of a site, and those of the process."""

from __future__ import annotations

from dataclasses import dataclass

from .probe import ProbeOptions

__all__ = ["SiteOptions", "WebOptions"]


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """Options of one site. Times are seconds."""

    request_timeout: float = 60.0
    """Longest silence of an application in a request before it is answered 504; nginx's fastcgi_read_timeout."""
    queue_timeout: float = 10.0
    """How long a request waits for an application to come back before it is answered 503."""
    queue_length: int = 10_000
    """Most requests that wait; the next is answered 503 at once."""
    slow_start: float = 10.0
    """How long an application that returned takes to get its whole share."""
    probes: ProbeOptions | None = None
    """The request that each application regularly gets to see whether it answers; None: there are no probes."""
    max_workers: int = 64
    """Most workers of one application that the web side connects to."""
    subset: int | None = None
    """How many of the applications are used; None: all."""
    identity: str = ""
    """What tells this web side from others: it decides which applications those are, and which gets the first request.
    Empty: the first ones in `connect`."""
    grace: float = 10
    """How long requests may take to end whose application is removed."""


@dataclass(frozen=True, slots=True)
class WebOptions(SiteOptions):
    """Options of the web side."""

    socket_mode: int = 0o666
    """Permissions of the unix socket toward the web server, which runs as another user."""
    socket_group: str | None = None
    """Group that may connect to it."""
    needs_feed: bool = True
    """Whether it is an error that the live feed cannot be offered."""

"""The state of the applications, collected when it is asked for: nothing here is done for a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ..plugin import ApplicationFigures
from .association import WebAssociation
from .balance import BackEnd

__all__ = ["Events", "application_figures"]


@dataclass(slots=True)
class Events:
    """How often something happened to the processes of one application, also to those that are gone.

    avoided, out, lost: see `ApplicationFigures`.
    requests: requests that were sent to workers that are gone.
    """

    avoided: int = 0
    out: int = 0
    lost: int = 0
    requests: int = 0


class Process(BackEnd, Protocol):
    """What is asked of an upstream."""

    events: Events
    requests: int
    associations: list[WebAssociation]
    member: str

    @property
    def state(self) -> str: ...


def application_figures(upstreams: Iterable[Process], now: float) -> list[ApplicationFigures]:
    """Returns the state of each application of the configuration at `now`, the loop's time, its workers with it."""
    members: dict[str, list[Process]] = {}
    for upstream in upstreams:
        members.setdefault(upstream.member, []).append(upstream)
    return [_together(member, processes, now) for member, processes in members.items()]


def _together(member: str, processes: list[Process], now: float) -> ApplicationFigures:
    states: dict[str, int] = {}
    for one in processes:
        state = _state(one, now)
        states[state] = states.get(state, 0) + 1
    events = processes[0].events
    return ApplicationFigures(
        member,
        states,
        events.requests + sum(one.requests for one in processes),
        sum(one.outstanding for one in processes),
        sum(one.capacity for one in processes),
        events.avoided,
        events.out,
        events.lost,
    )


def _state(upstream: Process, now: float) -> str:
    if upstream.state != "up":
        return upstream.state
    if any(one.connection.peer_draining for one in upstream.associations):
        return "draining"
    return "avoided" if upstream.health.avoid_until > now else "up"

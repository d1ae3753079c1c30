"""What the admin socket answers: the state of a running side, as plain values for JSON.

Figures of virtual hosts are counted from the first question on, so they cost nothing before. A client computes rates
from two answers. `fcgi_core.hosting.figures` collects the figures of an association; the command `fcgi-sctp status`
prints the answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..hosting.delivery import Link
from ..hosting.figures import association_figures, stream_map
from ..hosting.supervisor import Supervisor
from ..hosting.switching import change_plugins
from ..plugin.traffic import BOUNDS, STATUS_CLASSES, HostTraffic
from .admin import Commands

if TYPE_CHECKING:
    from ..app.service import AppService
    from ..web.service import WebService

__all__ = ["app_commands", "web_commands"]

MAX_HOSTS = 200
"""Virtual hosts in one answer: the ones with the most requests."""
MAX_ASSOCIATIONS = 100
"""Associations in one answer."""


def web_commands(service: WebService) -> Commands:
    """Return the commands of the web side's admin socket."""
    started = time.monotonic()

    def status(question: Mapping[str, Any]) -> dict[str, Any]:
        answer = _status("web", service.supervisor, started, question)
        answer["requests"] = {
            "in_flight": service.in_flight,
            "waiting": service.waiting,
            "ended": service.requests_ended,
        }
        if names := [name for name in service.sites if name]:
            answer["sites"] = [
                {
                    "name": site.name,
                    "in_flight": site.in_flight,
                    "waiting": site.waiting,
                    "ended": site.requests_ended,
                    "unserved": dict(site.unserved),
                }
                for site in service.all_sites
            ]
            answer["unknown_site"] = service.unknown_site
        answer["stderr_left_out"] = service.stderr_left_out
        answer["upstreams"] = [
            {
                "address": str(one.address),
                **({"site": site.name} if names else {}),
                "up": one.link is not None,
                "state": one.state,
                "association": one.link.info.identity if one.link is not None else None,
                "associations": [other.number for other in one.up],
                "weight": one.weight,
                "in_flight": one.outstanding,
                "capacity": one.capacity,
                "requests": one.requests,
                "last_error": "" if one.associations and not one.health.out else one.last_error,
            }
            for site in service.all_sites
            for one in (*site.upstreams, *site.members.leaving)
        ]
        return answer

    def change(question: Mapping[str, Any]) -> Awaitable[dict[str, dict[str, str]]]:
        return service.change(_changes(question))

    def drain(question: Mapping[str, Any], undo: bool = False) -> dict[str, Any]:
        done = service.drain(_address(question), _site(question), undo=undo)
        sites: list[dict[str, Any]] = [
            {"site": name, "queue_timeout": service.sites[name].options.queue_timeout} | one._asdict()
            for name, one in done.items()
        ]
        worst = min(sites, key=lambda one: one["left"])
        answer = {"name": service.supervisor.process_name, **worst, "in_flight": sum(one["in_flight"] for one in sites)}
        if any(service.sites):
            return answer | {"sites": sites}
        del answer["site"]
        return answer

    def undrain(question: Mapping[str, Any]) -> dict[str, Any]:
        return drain(question, undo=True)

    return {
        "status": status,
        "plugins": lambda question: service.supervisor.statistics(),
        "change": change,
        "drain": drain,
        "undrain": undrain,
    }


def app_commands(service: AppService, over_limit_before: int = 0) -> Commands:
    """Return the commands of the admin socket of an application's process. `over_limit_before`: requests over the limit
    in the workers whose place it has taken."""
    started = time.monotonic()

    def status(question: Mapping[str, Any]) -> dict[str, Any]:
        answer = _status("app", service.supervisor, started, question)
        in_flight = sum(len(link.connection.requests) for link in service.supervisor.links)
        answer["requests"] = {
            "in_flight": in_flight,
            "waiting": 0,
            "ended": service.shared.requests_ended,
            "over_limit": over_limit_before + service.supervisor.requests_over_limit,
            "hanging": 0 if service.limit is None else service.limit.hanging,
        }
        answer["associations_refused"] = service.refused
        answer["listen"] = [str(address) for address in service.addresses]
        return answer

    def change(question: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        return {f"app {service.supervisor.process_name}": change_plugins(service.supervisor, _changes(question))}

    return {"status": status, "plugins": lambda question: service.supervisor.statistics(), "change": change}


def _address(question: Mapping[str, Any]) -> str:
    address = question.get("address")
    if not isinstance(address, str):
        raise ValueError("address: the address of an application was expected, as HOST:PORT")
    return address


def _site(question: Mapping[str, Any]) -> str | None:
    site = question.get("site")
    if site is not None and not isinstance(site, str):
        raise ValueError("site: the name of a site was expected")
    return site


def _changes(question: Mapping[str, Any]) -> dict[str, str]:
    changes = question.get("changes")
    if not isinstance(changes, dict) or not all(isinstance(value, str) for value in changes.values()):
        raise ValueError("changes: an object with names PLUGIN.OPTION[@SERVER_NAME] and texts as values was expected")
    return changes


def _status(side: str, supervisor: Supervisor, started: float, question: Mapping[str, Any]) -> dict[str, Any]:
    traffic = supervisor.follow_traffic()
    in_flight = traffic.in_flight()
    hosts = sorted(traffic.hosts().items(), key=lambda item: -item[1].requests)
    for name in in_flight.keys() - dict(hosts).keys():
        hosts.append((name, HostTraffic()))
    links = supervisor.links
    streams = question.get("streams", True) is not False
    return {
        "side": side,
        "name": supervisor.process_name,
        "version": __version__,
        "pid": os.getpid(),
        "time": time.time(),
        "uptime": time.monotonic() - started,
        "bounds": BOUNDS,
        "hosts": [_host(name, figures, in_flight.get(name, 0)) for name, figures in hosts[:MAX_HOSTS]],
        "hosts_left_out": max(0, len(hosts) - MAX_HOSTS),
        "associations": [_association(link, streams) for link in links[:MAX_ASSOCIATIONS]],
        "associations_left_out": max(0, len(links) - MAX_ASSOCIATIONS),
        "plugins": supervisor.statistics(),
    }


def _host(name: str, figures: HostTraffic, in_flight: int) -> dict[str, Any]:
    return {
        "server_name": name,
        "requests": figures.requests,
        "in_flight": in_flight,
        "statuses": dict(zip(STATUS_CLASSES, figures.statuses, strict=True)),
        "aborted": figures.aborted,
        "failed": figures.failed,
        "bytes_in": figures.bytes_in,
        "bytes_out": figures.bytes_out,
        "seconds": {"counts": figures.duration.counts, "total": figures.duration.total},
    }


def _association(link: Link, streams: bool) -> dict[str, Any]:
    figures = association_figures(link.info, link.driver)
    connection = link.connection
    answer: dict[str, Any] = {
        **asdict(figures.info),
        "age": time.monotonic() - link.since,
        "requests": figures.requests,
        "draining": connection.draining or connection.peer_draining,
        "streams": figures.streams,
        "streams_leased": figures.streams_leased,
        "shortages": dict(figures.shortages),
        "feedback_waiting": figures.feedback_waiting,
        "content_waiting": figures.content_waiting,
        "sctp": asdict(figures.statistics),
    }
    if streams:
        answer["map"] = [{"stream": stream, "uses": uses} for stream, uses in stream_map(connection).items()]
    return answer

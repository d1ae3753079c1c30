"""The loads: what the web side asks for in each scenario, and what is made of the raw figures of both sides."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from .asking import Asking
from .measurement import WARM_UP, Cell, quantiles, rounds_of
from .web import Web

__all__ = ["LOADS", "summary"]

STRAGGLERS = 8.0
"""Seconds that alerts may still come after the last was sent; later ones count as lost."""
QUIET = 1.5
"""Seconds without an alert, after which no more are waited for."""


async def alerts_beside_bulk(web: Asking) -> None:
    """Answers without end that begin one after the other, and alerts on the same requests, or beside them."""
    cell = web.cell
    beside = cell.alternative.alerts in ("channel", "request")
    asks: dict[str, object] = {"SIZE": 0, **({"ALERTS": cell.alternative.alerts} if beside else {})}
    end = time.monotonic() + cell.warm_up + cell.seconds
    if not beside:
        web.alert_request()
    for number in range(cell.requests):
        web.begin(number, "bulk", b"", **asks)
        await asyncio.sleep(cell.load.get("every", 0.0))
    await asyncio.sleep(max(0.0, end - time.monotonic()))
    await _last_alerts(web)


async def _last_alerts(web: Asking) -> None:
    end = time.monotonic() + STRAGGLERS
    came = -1
    while time.monotonic() < end and came < len(web.arrived):
        came = len(web.arrived)
        await asyncio.sleep(QUIET)


async def requests_beside_requests(web: Asking) -> None:
    """Rounds of parallel requests, a third of them long; the next round when all have come."""
    for kinds in rounds_of(web.cell, web.random):
        for number, kind in enumerate(kinds):
            web.begin(number, kind, SIZE=web.cell.load[f"{kind}_bytes"])
        await web.idle.wait()


async def one_slow_reader(web: Web) -> None:
    """One reader that takes little beside many that take all, again and again."""
    cell = web.cell
    slow = web.begin(0, "slow", SIZE=cell.load["slow_bytes"])
    assert slow is not None
    slow.slow = True
    web.take_slowly(cell.load["slow_rate"])
    end = time.monotonic() + cell.seconds
    while time.monotonic() < end:
        for _ in range(cell.load["fast"]):
            web.begin(0, "fast", SIZE=cell.load["fast_bytes"])
        while web.open > 1 and time.monotonic() < end + STRAGGLERS:
            await asyncio.sleep(0.02)


async def flood(web: Asking) -> None:
    """Many more requests than can be served, and alerts that tell of it."""
    cell = web.cell
    web.alert_request()
    loop = asyncio.get_running_loop()
    begin, number = loop.time(), 0
    body = bytes(cell.load["body"])
    while loop.time() - begin < cell.warm_up + cell.seconds:
        due = begin + number / cell.load["rate"]
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        if web.is_free(number):
            web.begin(number, "flood", body, SIZE=cell.load["bytes"], SERVICE=cell.load["service"])
        number += 1
    await _last_alerts(web)


LOADS = {
    "alerts": alerts_beside_bulk,
    "plans": alerts_beside_bulk,
    "queues": alerts_beside_bulk,
    "requests": requests_beside_requests,
    "cold": requests_beside_requests,
    "slow-reader": one_slow_reader,
    "flood": flood,
}


def summary(cell: Cell, application: dict[str, Any], web: dict[str, Any]) -> dict[str, Any]:
    """The figures that are kept, from what both sides saw."""
    kept: dict[str, Any] = {
        "late": application["late"],
        "memory": {"application": application["memory"], "web": web["memory"], "unread": web["held"]},
        "cpu": {"application": application["cpu"], "web": web["cpu"]},
        "down": web["down"],
    }
    sent = application["sent"]
    if sent:
        first = sent[0] + cell.warm_up
        delays = [web["arrived"].get(number, math.inf) - at for number, at in enumerate(sent) if at >= first]
        came = [delay for delay in delays if delay < math.inf]
        kept["alerts"] = {
            "sent": len(delays),
            "lost": len(delays) - len(came),
            "within_100_ms": sum(delay <= 0.1 for delay in came) / max(1, len(delays)),
            **quantiles(came),
        }
        end = first + cell.seconds
        kept["goodput"] = sum(size for at, size in web["bytes"] if first <= at <= end) / cell.seconds
    else:
        begin = min((began for kind, began, *_ in web["requests"] if kind != WARM_UP), default=0.0)
        came = [(at, size) for at, size in web["bytes"] if at >= begin]
        kept["goodput"] = sum(size for _, size in came) / max(0.001, came[-1][0] - begin) if came else 0
    if application["queued"]:
        kept["queued"] = sorted(application["queued"])[len(application["queued"]) // 2]
        kept["cwnd"] = sorted(application["cwnd"])[len(application["cwnd"]) // 2]
    if web.get("pool"):
        kept["pool"] = {**web["pool"], "dealt": application["dealt"]}
    for kind in sorted({request[0] for request in web["requests"]}):
        mine = [request for request in web["requests"] if request[0] == kind]
        ended = [request for request in mine if request[3]]
        kept[kind] = {
            "asked": len(mine),
            "ended": len(ended),
            "first_byte": quantiles([first - began for _, began, first, _, _ in mine if first]),
            "whole": quantiles([end - began for _, began, _, end, _ in ended]),
        }
    return kept

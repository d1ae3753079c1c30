"""Computes rates per second from two answers of a process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Row", "quantile", "view"]

Row = dict[str, Any]
_ASSOCIATION = ("identity", "peer", "peer_name", "requests", "streams", "streams_leased")


def _upstream(one: Row) -> tuple[str, bool]:
    """What tells an application from others: one that was removed may still be there when its address is back."""
    return one["address"], one["state"] == "leaving"


def view(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """What `top` shows of one process. Rates are None without `before`, or if that was another process."""
    same = before is not None and before["pid"] == now["pid"] and before["uptime"] < now["uptime"]
    elapsed = now["uptime"] - before["uptime"] if before is not None and same else 0.0
    old = before if before is not None and same else {}

    def rate(later: float, earlier: float) -> float | None:
        return max(0.0, later - earlier) / elapsed if elapsed else None

    hosts_before = {one["server_name"]: one for one in old.get("hosts", ())}
    upstreams_before = {_upstream(one): one for one in old.get("upstreams", ())}
    channels_before = {one["name"]: one for plugin in old.get("plugins", ()) for one in plugin["channels"]}
    requests, requests_before = now["requests"], old.get("requests", {})
    return {
        **{name: now[name] for name in ("side", "name", "pid", "uptime")},
        **{name: requests[name] for name in ("in_flight", "waiting")},
        "requests_per_second": rate(requests["ended"], requests_before.get("ended", 0)),
        "hosts": [_host(one, hosts_before.get(one["server_name"]), now["bounds"], rate) for one in now["hosts"]],
        "upstreams": [
            {
                **{name: one[name] for name in ("address", "state", "in_flight")},
                "associations": len(one.get("associations", ())),
                "requests_per_second": rate(one["requests"], upstreams_before.get(_upstream(one), one)["requests"]),
            }
            for one in now.get("upstreams", ())
        ],
        "associations": [
            {
                **{name: one[name] for name in _ASSOCIATION},
                **{name: one["sctp"][name] for name in ("round_trip", "retransmissions", "queued")},
                "shortages": sum(one["shortages"].values()),
                "waiting": one["content_waiting"] + one["feedback_waiting"],
            }
            for one in now["associations"]
        ],
        "plugins": [
            {
                "plugin": plugin["name"],
                "state": plugin["state"],
                "errors": plugin["errors"],
                "channel": one["name"],
                **{name: one[name] for name in ("streams", "dropped")},
                "sent_per_second": rate(one["sent"], channels_before.get(one["name"], one)["sent"]),
                "received_per_second": rate(one["received"], channels_before.get(one["name"], one)["received"]),
            }
            for plugin in now["plugins"]
            for one in plugin["channels"]
        ],
    }


def _host(now: Row, before: Row | None, bounds: Sequence[float], rate: Any) -> Row:
    old = before or {
        "requests": 0,
        "bytes_out": 0,
        "statuses": {},
        "failed": 0,
        "seconds": {"counts": [0] * len(now["seconds"]["counts"]), "total": 0.0},
    }
    counts = [
        later - earlier for later, earlier in zip(now["seconds"]["counts"], old["seconds"]["counts"], strict=True)
    ]
    return {
        "server_name": now["server_name"],
        "in_flight": now["in_flight"],
        "requests": now["requests"],
        "requests_per_second": rate(now["requests"], old["requests"]),
        "bytes_per_second": rate(now["bytes_out"], old["bytes_out"]),
        "server_errors_per_second": rate(now["statuses"].get("5xx", 0), old["statuses"].get("5xx", 0)),
        "median": quantile(0.5, counts, bounds),
        "p95": quantile(0.95, counts, bounds),
        "p99": quantile(0.99, counts, bounds),
    }


def quantile(which: float, counts: Iterable[int], bounds: Sequence[float]) -> float | None:
    """A quantile of values counted in buckets, as Prometheus' histogram_quantile computes it; None without values."""
    found = list(counts)
    rank = which * sum(found)
    if rank <= 0:
        return None
    below = 0
    for index, count in enumerate(found):
        if count and below + count >= rank:
            if index == len(bounds):
                return bounds[-1]
            low = bounds[index - 1] if index else 0.0
            return low + (bounds[index] - low) * (rank - below) / count
        below += count
    return None

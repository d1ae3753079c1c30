"""What is compared: a transport, how work is divided over it, and on what the alerts travel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fcgi_core.sctp.carrier import Scheduler

from .policies import POLICIES

__all__ = ["ALERTS", "Alternative", "BEST", "FLOOD", "QUEUES", "REFERENCES", "REQUESTS", "SLOW_READER"]


@dataclass(frozen=True)
class Alternative:
    """One way to bring answers and alerts from the application to the web side."""

    name: str
    carrier: str
    """``userspace``, ``kernel`` (SCTP) or ``tcp``: this project's core on it. ``http/1.1``, ``http/2``: HAProxy and
    hypercorn, see http.py."""
    plan: str = "per-channel"
    """See policies.py."""
    scheduler: Scheduler = Scheduler.PRIORITY
    interleaving: bool = True
    connections: int = 1
    """Connections that requests are dealt to."""
    alerts: str = "channel"
    """``channel``: beside the requests' content, on the connections they use; ``connection``: on a TCP connection of
    their own, as syslog over TCP; ``udp``: a datagram each, as syslog over UDP."""
    notsent: int = 0
    """TCP_NOTSENT_LOWAT, 0: not set."""
    congestion: str = "cubic"
    """TCP's congestion control."""
    queue: str = ""
    """How much SCTP may hold, see queues.py; '': what the carrier does by itself."""
    leasing: str = ""
    """Which released stream is leased again, see leasing.py; '': the one released longest ago."""
    guest: bool = False
    """TCP in the lab guest, beside kernel SCTP, which is always there."""

    @property
    def in_guest(self) -> bool:
        return self.guest or self.carrier == "kernel"


def _sctp(carrier: str) -> list[Alternative]:
    base = Alternative(f"{carrier} per-channel priority", carrier)
    return [
        base,
        replace(base, name=f"{carrier} single", plan="single"),
        replace(base, name=f"{carrier} per-type", plan="per-type"),
        replace(base, name=f"{carrier} per-request", plan="per-request"),
        *(
            replace(
                base,
                name=f"{carrier} per-channel {scheduler.value}" + ("" if interleaving else ", no I-DATA"),
                scheduler=scheduler,
                interleaving=interleaving,
            )
            for scheduler in (Scheduler.PRIORITY, Scheduler.ROUND_ROBIN, Scheduler.FIRST_COME)
            for interleaving in (True, False)
            if (scheduler, interleaving) != (Scheduler.PRIORITY, True)
        ),
        replace(base, name=f"{carrier} per-channel priority, long SCTP queue", queue="buffer"),
        replace(
            base,
            name=f"{carrier} per-channel round-robin, no I-DATA, long SCTP queue",
            scheduler=Scheduler.ROUND_ROBIN,
            interleaving=False,
            queue="buffer",
        ),
    ]


BEST = {carrier: Alternative(f"{carrier} per-channel priority", carrier) for carrier in ("userspace", "kernel")}
SHARED = Alternative("tcp, one connection", "tcp")
LOWAT = replace(SHARED, name="tcp, one connection, NOTSENT_LOWAT", notsent=16384)
BBR = replace(LOWAT, name="tcp, one connection, NOTSENT_LOWAT, BBR", congestion="bbr")
EACH = Alternative("tcp, a connection each, syslog on TCP", "tcp", connections=8, alerts="connection")
DATAGRAMS = replace(EACH, name="tcp, a connection each, syslog on UDP", alerts="udp")

ALERTS = [SHARED, LOWAT, BBR, EACH, DATAGRAMS, *_sctp("userspace"), *_sctp("kernel")]

_RULES = [
    replace(BEST[carrier], name=f"{carrier}, {queue}", queue=queue)
    for carrier in ("userspace", "kernel")
    for queue in ("buffer", "2 cwnd, 64 KiB", "2 cwnd", "1.5 cwnd", "cwnd + 16 KiB", "cwnd + 4 KiB", "cwnd")
]

QUEUES = [*BEST.values(), *_RULES]

REQUESTS = [
    SHARED,
    LOWAT,
    replace(EACH, name="tcp, 6 connections", connections=6),
    replace(EACH, name="tcp, 30 connections", connections=30),
    *(replace(BEST[carrier], name=f"{carrier} {plan}", plan=plan) for carrier in BEST for plan in POLICIES),
    *(replace(BEST[carrier], name=f"{carrier} per-channel, last released first", leasing="last") for carrier in BEST),
    replace(SHARED, name="http/2 to the back end, one connection", carrier="http/2"),
    replace(SHARED, name="http/1.1 to the back end, 30 connections", carrier="http/1.1", connections=30),
]

SLOW_READER = [SHARED, *BEST.values()]

REFERENCES = {
    "alerts": [LOWAT],
    "queues": [],
    "requests": [LOWAT, replace(EACH, name="tcp, 30 connections", connections=30)],
    "slow-reader": [SHARED],
    "flood": [LOWAT],
}
"""Measured in the guest as well, to hold its figures beside those from here."""

FLOOD = [
    SHARED,
    LOWAT,
    replace(EACH, name="tcp, 50 connections, syslog on TCP", connections=50),
    replace(DATAGRAMS, name="tcp, 50 connections, syslog on UDP", connections=50),
    BEST["userspace"],
    BEST["kernel"],
]

"""What is compared: a transport, how work is divided over it, and on what the alerts travel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fcgi_core.sctp.carrier import Scheduler

__all__ = [
    "ALERTS",
    "Alternative",
    "BEST",
    "CARRIERS",
    "COLD",
    "EACH",
    "FLOOD",
    "OF_REQUESTS",
    "PLANS",
    "QUEUES",
    "REFERENCES",
    "REQUESTS",
    "SERVICES",
    "SIX",
    "SIX_IN_TURN",
    "SLOW_READER",
    "THIRTY",
]


@dataclass(frozen=True)
class Alternative:
    """One way to bring answers and alerts from the application to the web side."""

    name: str
    carrier: str
    """``userspace``, ``kernel`` (SCTP) or ``tcp``: this project on it. ``http/1.1``, ``http/2``: HAProxy and hypercorn,
    see http.py."""
    services: bool = False
    """The real services with FastCGI before them and the alerts by a plugin, as they are used; else the protocol's core
    alone, which the measurement drives."""
    associations: int = 0
    """Of the services' pool, 0: ``auto``."""
    plan: str = "per-channel"
    """See policies.py."""
    scheduler: Scheduler = Scheduler.PRIORITY
    interleaving: bool = True
    connections: int = 1
    """Connections that requests are dealt to."""
    alerts: str = "channel"
    """``channel``: beside the requests' content, on the connections they use; ``connection``: on a TCP connection of
    their own, as syslog over TCP; ``udp``: a datagram each, as syslog over UDP. Of the services: ``plugin``, from the
    process, on the association that the delivery chooses; ``request``, from the requests in turn."""
    notsent: int = 0
    """TCP_NOTSENT_LOWAT, 0: not set."""
    congestion: str = "cubic"
    """TCP's congestion control."""
    queue: str = ""
    """How much SCTP may hold, see queues.py; '': what the carrier does by itself."""
    long_behind: bool = True
    """Whether long answers go behind short ones in the core's queues, see docs/streams.md."""
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


CARRIERS = ("userspace", "kernel")
BEST = {carrier: Alternative(f"{carrier} per-channel priority", carrier) for carrier in CARRIERS}
SERVICES = [
    Alternative(
        f"{carrier}, {count or 'auto'}{' association' if count == 1 else ' associations' if count else ''}",
        carrier,
        services=True,
        associations=count,
        alerts="plugin",
    )
    for carrier in CARRIERS
    for count in (1, 3, 6, 0)
    if carrier == "userspace" or count != 3  # the guest is slow
]
OF_REQUESTS = [replace(one, name=f"{one.name}, alerts of requests", alerts="request") for one in SERVICES]
SHARED = Alternative("tcp, one connection", "tcp")
LOWAT = replace(SHARED, name="tcp, one connection, NOTSENT_LOWAT", notsent=16384)
BBR = replace(LOWAT, name="tcp, one connection, NOTSENT_LOWAT, BBR", congestion="bbr")
EACH = Alternative("tcp, a connection each, syslog on TCP", "tcp", connections=8, alerts="connection")
DATAGRAMS = replace(EACH, name="tcp, a connection each, syslog on UDP", alerts="udp")

ALERTS = [SHARED, LOWAT, BBR, EACH, DATAGRAMS, *SERVICES, *BEST.values()]
PLANS = [one for carrier in CARRIERS for one in _sctp(carrier)]

_RULES = [
    replace(BEST[carrier], name=f"{carrier}, {queue}", queue=queue)
    for carrier in CARRIERS
    for queue in ("buffer", "2 cwnd, 64 KiB", "2 cwnd", "1.5 cwnd", "cwnd + 16 KiB", "cwnd + 4 KiB", "cwnd")
]

QUEUES = [*BEST.values(), *_RULES]

SIX, THIRTY = (replace(EACH, name=f"tcp, {count} connections", connections=count) for count in (6, 30))
SIX_IN_TURN = replace(SIX, name=f"{SIX.name}, long ones not behind", long_behind=False)

REQUESTS = [
    LOWAT,
    SIX,
    SIX_IN_TURN,
    THIRTY,
    *SERVICES,
    *BEST.values(),
    replace(SHARED, name="http/2 to the back end, one connection", carrier="http/2"),
    replace(SHARED, name="http/1.1 to the back end, 30 connections", carrier="http/1.1", connections=30),
]

COLD = [SIX, SIX_IN_TURN, THIRTY, *SERVICES]

SLOW_READER = [SHARED, *BEST.values()]

FIFTY = replace(EACH, name="tcp, 50 connections, syslog on TCP", connections=50)
FLOOD = [
    LOWAT,
    FIFTY,
    replace(DATAGRAMS, name="tcp, 50 connections, syslog on UDP", connections=50),
    *SERVICES,
    *BEST.values(),
]

REFERENCES = {
    "alerts": [EACH],
    "plans": [],
    "queues": [],
    "requests": [SIX, SIX_IN_TURN, THIRTY],
    "cold": [SIX, SIX_IN_TURN, THIRTY],
    "slow-reader": [SHARED],
    "flood": [FIFTY],
}
"""Measured in the guest as well, to hold its figures beside those from here."""

"""What both ends of a measurement share: carriers by alternative, the alerts' channel and their form, memory."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcgi_core.protocol.channels import Channel, Priority, Scope
from fcgi_core.sctp.carrier import Address, CarrierOptions

from .alternatives import Alternative
from .measurement import Cell
from .queues import use_queue
from .tcp import TcpCarrier

__all__ = ["ALERT", "ALERT_SIZE", "CHANNEL", "PORT", "Held", "alert_channel", "app_address", "make_carrier", "memory"]

ALERT = Channel("bench.alert", Scope.REQUEST, priority=Priority.URGENT, ordered=False)
"""As the syslog plugin's urgent lines are."""
IN_ORDER = replace(ALERT, ordered=True)
"""What plans and rules for queues are compared by: an alert out of order would not show what its stream costs it."""
CHANNEL = ALERT.name
ALERT_SIZE = 100
PORT = 9000
Held = struct.Struct("=Id")
"""The head of an alert: its number, and when it was sent by the clock that both ends share."""


def alert_channel(cell: Cell) -> Channel:
    return IN_ORDER if cell.scenario in ("plans", "queues") else ALERT


def app_address(lane: int) -> Address:
    return Address((f"10.8.{lane}.2",), PORT)


def make_carrier(alternative: Alternative) -> Any:
    """The carrier of an alternative, on the running loop."""
    if alternative.carrier == "tcp":
        return TcpCarrier(alternative.notsent, alternative.congestion)
    options = CarrierOptions(scheduler=alternative.scheduler, interleaving=alternative.interleaving)
    if alternative.queue:
        use_queue(alternative.carrier, alternative.queue)
    if alternative.carrier == "userspace":
        from fcgi_core.sctp.userspace.carrier import UserspaceCarrier

        return UserspaceCarrier(options)
    from fcgi_core.sctp.kernel.carrier import KernelCarrier

    return KernelCarrier(options)


def memory() -> int:
    """Bytes of this process that are in memory and its own."""
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")

"""The figures of one association. Plugins see them, so they are not compiled: a compiled class has no docstring."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AssociationStatistics"]


@dataclass(frozen=True, slots=True)
class AssociationStatistics:
    """Figures of one association; None for a figure that the carrier does not have."""

    round_trip: float | None = None
    """Smoothed round-trip time of the primary path, seconds."""
    retransmission_timeout: float | None = None
    """RTO of the primary path, seconds."""
    congestion_window: int | None = None
    peer_receive_window: int | None = None
    unacknowledged: int | None = None
    """DATA chunks sent and not yet acknowledged."""
    queued: int = 0
    """Payload bytes accepted by send() and not yet sent or not yet acknowledged, as the carrier counts."""
    retransmissions: int | None = None
    packets_sent: int | None = None
    packets_received: int | None = None
    interleaving: bool | None = None
    """Whether I-DATA is in use on this association."""
    paths: tuple[tuple[str, str], ...] = ()
    """Each address of the peer with its state: ``active``, ``inactive``, ``unconfirmed``, ``unknown``."""

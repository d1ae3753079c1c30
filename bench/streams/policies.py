"""Other ways to divide work over streams than the product's: docs/streams.md measures them. All of them interoperate,
for a receiver goes by the record header alone."""

from __future__ import annotations

from collections.abc import Hashable

from fcgi_core.protocol.streams import CONTENT, Policy, StreamSet

__all__ = ["POLICIES"]


def single(channel: Hashable, streams: StreamSet | None) -> tuple[Hashable, StreamSet | None]:
    """Everything on one stream: what FastCGI on one TCP connection does."""
    return "all", None


def per_type(channel: Hashable, streams: StreamSet | None) -> tuple[Hashable, StreamSet | None]:
    """One stream for all content, one for all STDERR, one for each channel."""
    return channel, None


def per_request(channel: Hashable, streams: StreamSet | None) -> tuple[Hashable, StreamSet | None]:
    """One stream for each request with all that belongs to it, one for each association channel."""
    return (channel, None) if streams is None else (CONTENT, streams)


POLICIES: dict[str, Policy | None] = {
    "single": single,
    "per-type": per_type,
    "per-request": per_request,
    "per-channel": None,
}
"""By the name that the measurements have; None: the product's own."""

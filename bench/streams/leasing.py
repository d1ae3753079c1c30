"""Which released stream is leased again, as an experiment: another rule in the place of the pool's own."""

from __future__ import annotations

from fcgi_core.protocol.streams import StreamPool

__all__ = ["use_leasing"]


def use_leasing(rule: str) -> None:
    """From now on pools made in this process follow the rule: ``last``, the stream that was released last goes first,
    so that a new request stands behind the loss of the one before it."""
    if rule != "last":
        raise ValueError(f"no rule for leasing: {rule!r}")
    fresh_or_oldest = StreamPool._take

    def take(self: StreamPool, priority: int) -> int:
        queue = self._free.get(priority)
        return queue.pop() if queue else fresh_or_oldest(self, priority)

    StreamPool._take = take  # type: ignore[method-assign]

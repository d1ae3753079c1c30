"""One request on an association, as the protocol keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .flow import ReceiveWindow, SendWindow
from .outbox import Lane
from .records import Role, decode_pairs
from .states import Input, Output
from .streams import StreamSet

if TYPE_CHECKING:
    from .outbox import FeedbackLane

__all__ = ["Request"]

# what stands in a request that is only remembered
_NO_LANE = Lane(0, 0)
_CLOSED_SEND = SendWindow(0)
_CLOSED_RECEIVE = ReceiveWindow(0)
_NO_STREAMS = StreamSet()
_NOTHING_HELD: list[tuple[int, bytes | memoryview]] = []


class Request:
    """One request on an association; (id, generation) names it for good."""

    __slots__ = (
        "_params",
        "aborted",
        "context",
        "credited_at",
        "ended_at",
        "feedback",
        "flags",
        "generation",
        "growing_params",
        "held",
        "id",
        "input",
        "key",
        "lane",
        "outlived",
        "output",
        "raw_params",
        "receive_window",
        "role",
        "send_window",
        "stderr",
        "stderr_bytes",
        "streams",
    )

    def __init__(
        self, request_id: int, generation: int, role: Role, flags: int, send_window: int, receive_window: int
    ) -> None:
        self.id = request_id
        self.generation = generation
        self.key = (request_id, generation)
        self.role = role
        self.flags = flags
        self.raw_params = b""
        """The content of all PARAMS records, as it travels."""
        self.growing_params: bytearray | None = None
        """The same, while it comes in more than one record."""
        self._params: dict[str, str] | None = None
        self.input = Input.PARAMS
        self.output = Output.OPEN
        self.aborted = False
        self.send_window = SendWindow(send_window)
        self.receive_window = ReceiveWindow(receive_window)
        self.held: list[tuple[int, bytes | memoryview]] = []
        """(record type, content) that waits for credit, and what must come after it."""
        self.streams = StreamSet()
        self.lane: Lane
        self.stderr: FeedbackLane | None = None
        self.stderr_bytes = 0
        """Bytes of STDERR that were queued to be sent (application side), or have come (web side)."""
        self.feedback: dict[int, FeedbackLane] | None = None
        """By channel number; None while there is none."""
        self.credited_at = 0.0
        """When the peer last granted credit, which says that it goes on."""
        self.ended_at = 0.0
        self.outlived = False
        """Application side: records of it may come after its end."""
        self.context: Any = None
        """The user's own object; this package does not look at it."""

    @property
    def params(self) -> dict[str, str]:
        """PARAMS as latin-1 text. Decoded when first asked for: what only passes through need not be.

        ValueError if they are malformed, which on the application side `RequestReceived` rules out.
        """
        if self._params is None:
            self._params = decode_pairs(self.raw_params)
        return self._params

    def size_of_params(self) -> int:
        """Bytes of PARAMS that have come."""
        growing = self.growing_params
        return len(self.raw_params) if growing is None else len(growing)

    @property
    def writable(self) -> bool:
        """False while what was given for sending waits for the peer's credit; a `Writable` event tells the end."""
        return not self.held

    def settle(self) -> None:
        """It is over, and only remembered for what comes late: keep what that needs.

        What is let go is freed now, while it is in the processor's cache; to free all of it when the request is
        forgotten, thousands of requests later, costs a microsecond or two.
        """
        self.lane = _NO_LANE
        self.send_window = _CLOSED_SEND
        self.receive_window = _CLOSED_RECEIVE
        self.streams = _NO_STREAMS
        self.held = _NOTHING_HELD

    def __repr__(self) -> str:
        return f"<Request {self.id}.{self.generation} {self.input.value}/{self.output.value}>"

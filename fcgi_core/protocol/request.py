"""What the protocol keeps of one request on an association."""

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

# stand in for what an ended request does not need
_NO_LANE = Lane(0, 0)
_CLOSED_SEND = SendWindow(0)
_CLOSED_RECEIVE = ReceiveWindow(0)
_NO_STREAMS = StreamSet()
_NOTHING_HELD: list[tuple[int, bytes | memoryview]] = []


class Request:
    """One request on an association; (id, generation) identifies it."""

    __slots__ = (
        *("_params", "aborted", "context", "credited_at", "ended_at", "feedback", "flags", "generation"),
        *("growing_params", "held", "id", "input", "key", "lane", "outlived", "output", "raw_params"),
        *("receive_window", "role", "send_window", "stderr", "stderr_bytes", "streams"),
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
        """The content of the PARAMS records: name-value pairs (section 3.4)."""
        self.growing_params: bytearray | None = None
        """The same, while it arrives in more than one record."""
        self._params: dict[str, str] | None = None
        self.input = Input.PARAMS
        self.output = Output.OPEN
        self.aborted = False
        self.send_window = SendWindow(send_window)
        self.receive_window = ReceiveWindow(receive_window)
        self.held: list[tuple[int, bytes | memoryview]] = []
        """(record type, content) pairs that wait for credit or for room in SCTP; see `Connection._send`."""
        self.streams = StreamSet()
        self.lane: Lane
        self.stderr: FeedbackLane | None = None
        self.stderr_bytes = 0
        """Bytes of STDERR that were queued (application side) or have arrived (web side)."""
        self.feedback: dict[int, FeedbackLane] | None = None
        """By number of the channel, see `Feedback.lanes`; None while there is none."""
        self.credited_at = 0.0
        """When the peer last granted credit, which shows that it still reads."""
        self.ended_at = 0.0
        self.outlived = False
        """Application side: whether records of it may arrive after its end."""
        self.context: Any = None
        """A place for an object of the user."""

    @property
    def params(self) -> dict[str, str]:
        """PARAMS as latin-1 text, decoded when first asked for. ValueError if they are malformed, which they never are
        after `RequestReceived`."""
        if self._params is None:
            self._params = decode_pairs(self.raw_params)
        return self._params

    def size_of_params(self) -> int:
        """Bytes of PARAMS that have arrived."""
        growing = self.growing_params
        return len(self.raw_params) if growing is None else len(growing)

    @property
    def writable(self) -> bool:
        """False while queued content waits for credit; a `Writable` event follows."""
        return not self.held

    def settle(self) -> None:
        """Keep only what late STDERR and feedback need. The rest is freed now, while it is in the processor's cache: to
        free it when the request is forgotten, thousands of requests later, takes a microsecond or two."""
        self.lane = _NO_LANE
        self.send_window = _CLOSED_SEND
        self.receive_window = _CLOSED_RECEIVE
        self.streams = _NO_STREAMS
        self.held = _NOTHING_HELD

    def __repr__(self) -> str:
        return f"<Request {self.id}.{self.generation} {self.input.value}/{self.output.value}>"

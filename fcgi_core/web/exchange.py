"""One request of a web server and its answer.

    RECEIVING --PARAMS are whole--> WAITING --an application accepts it--> SENT
                                       ^                                    |
                                       +----- no application began it ------+
    each --the answer's end, an error, a web server that closes or aborts--> OVER

| state | who changes it next | what is set |
| --- | --- | --- |
| RECEIVING | its connection | `raw_params` grow |
| WAITING | the service | `body` grows; `wait`, once no application had room |
| SENT | `upstream` | `link`, `request`; `body` is empty, or kept to send the request again |
| OVER | nothing: no more is written | `upstream` stays, so that the application hears of an abort |

What web servers need, learned by trying them: records are sent unpadded, 60 KiB at most; and a response that breaks
off after it began can only be reported by closing the connection, for END_REQUEST would make it look whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from ..hosting.byte_stream import find_value
from ..hosting.exchange import Exchange, error_page
from ..protocol.records import (
    LARGEST_CONTENT,
    ProtocolStatus,
    RecordType,
    Role,
    decode_pairs,
    end_request,
    header,
    record,
    stream_records,
    values_of,
)
from ..protocol.states import Input
from ..sctp.carrier import Address
from .client_socket import LONG_PART, ClientSocket
from .early_stderr import MAX_HEAD_BUFFER, RECORD_COST, EarlyStderr

__all__ = ["Application", "RequestConnection", "RequestSite", "State", "Wait", "WebExchange"]

NO_RECORD = bytes(8)
"""Sent where a response breaks off: no record, for its version is 0. Closing alone does not do: nginx takes the end of
an unbuffered response without a length for its proper end, however it comes."""
MAX_REASON = 1024
"""Bytes of the reason that stands in STDERR before an error page."""


@lru_cache(maxsize=128)
def _whole_end(request_id: int) -> bytes:
    """The records that end a complete answer. They are kept because packing them takes 4,700 instructions; web servers
    number requests from 1 on, as few as they have at once."""
    return end_request(request_id, closing=True)


class State(Enum):
    """Where a request is on its way."""

    RECEIVING = "receiving"
    WAITING = "waiting"
    SENT = "sent"
    OVER = "over"


class Wait:
    """What a request that had to wait for an application keeps, however often it is queued. Times are the loop's."""

    __slots__ = ("deadline", "overloaded_at", "size")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """When it will have waited for long enough."""
        self.overloaded_at: float | None = None
        """When an application first refused it because it had too much to do."""
        self.size = 0
        """Bytes that it holds while it is queued; 0 while it is not."""


class RequestConnection(ClientSocket):
    """A web server's connection, as one of its requests sees it."""

    def finished(self, exchange: WebExchange) -> None:
        """Forget the exchange; its END_REQUEST is queued, or its connection is to be closed."""
        raise NotImplementedError

    def break_off(self, exchange: WebExchange) -> None:
        """Close the connection, so that the web server sees that the response is cut."""
        raise NotImplementedError


class Application(Protocol):
    """The application that a request was sent to."""

    address: Address

    def send_input(self, exchange: WebExchange) -> None:
        """Send on the request's input that has come."""

    def abort(self, exchange: WebExchange) -> None:
        """Abort the request: its answer is not wanted any more."""

    def has_answered(self, exchange: WebExchange) -> bool:
        """Whether the application has ended the request, whose END_REQUEST waits for its STDERR."""

    def failed(self) -> None:
        """Count a failure of a request by the application's fault."""


class RequestSite(Protocol):
    """The site that a request is for."""

    def waiting_grew(self, exchange: WebExchange) -> None:
        """Count what a request holds that waits for an application: its `body` or `input_closed` changed."""

    def client_gone(self, exchange: WebExchange) -> None:
        """Abort a request: its web server has closed the connection or aborted it, and the exchange is over."""


class WebExchange(Exchange):
    """One request of a web server and its answer."""

    __slots__ = (
        "_early_stderr",
        "_owed",
        "_params",
        "_server_name",
        "body",
        "can_be_sent_again",
        "downstream",
        "flags",
        "growing_params",
        "id",
        "input",
        "input_closed",
        "last_activity",
        "raw_params",
        "role",
        "site",
        "state",
        "tried_again",
        "upstream",
        "wait",
    )

    def __init__(self, downstream: RequestConnection, request_id: int, role: Role, flags: int) -> None:
        super().__init__()
        self.downstream = downstream
        self.id = request_id
        """The web server's request id, on its connection."""
        self.role = role
        self.flags = flags
        self.state = State.RECEIVING
        self.site: RequestSite | None = None
        """Where it goes, if its socket is that of several sites."""
        self.upstream: Application | None = None
        """The application that has the request, or had it when it ended."""
        self.wait: Wait | None = None
        """Set when the request first has to wait for an application."""
        self.input = Input.PARAMS
        self.raw_params: bytes = b""
        self.growing_params: bytearray | None = None
        """PARAMS while they come in more than one record."""
        self._params: dict[str, str] | None = None
        self._server_name: str | None = None
        self.body: list[tuple[int, bytes]] = []
        """STDIN (or DATA) that has come and was not passed on; empty content marks an end."""
        self.input_closed = False
        """All of the input has come; with what is in `body`, it is whole."""
        self.can_be_sent_again = False
        """`body` still holds all of the input: another application could get the request."""
        self.tried_again = False
        """A second application got the request after the first was lost."""
        self.last_activity = self.began
        """When the application or the web server last moved it, by the clock of `began`."""
        self._early_stderr: EarlyStderr | None = None
        self._owed = 0
        """Bytes of the answer for which the application gets credit when the socket is written again."""

    def size_of_input(self) -> int:
        """Return the bytes of memory that the input takes, while all that has come of it is kept."""
        return self.bytes_in + len(self.body) * RECORD_COST

    def size_of_params(self) -> int:
        """Return how many bytes of PARAMS have come."""
        growing = self.growing_params
        return len(self.raw_params) if growing is None else len(growing)

    @property
    def params(self) -> Mapping[str, str]:
        if self._params is None:
            try:
                self._params = decode_pairs(self.raw_params)
            except ValueError:
                self._params = {}  # the application refuses such a request; most are never decoded here
        return self._params

    @property
    def server_name(self) -> str:
        name = self._server_name
        if name is None:
            name = find_value(self.raw_params, b"SERVER_NAME") if self._params is None else None
            name = self._server_name = self.params.get("SERVER_NAME", "") if name is None else name
        return name

    def _given_identity(self) -> str:
        params = self.raw_params
        if b"REQUEST_ID" not in params:
            return ""  # nginx's usual fastcgi_params have none, and a look at every pair takes nearly twice as long
        try:
            return values_of(params, (b"REQUEST_ID",))[0]
        except ValueError:
            return ""  # as for `params`

    def _made_identity(self) -> str:
        if not hasattr(self, "request"):
            return f"unsent.{self.id}"  # no application accepted it
        settings = self.link.connection.settings
        return f"{settings.instance}.{settings.association}.{self.request.id}.{self.request.generation}"

    # ---- the answer

    def send_output(self, data: bytes) -> None:
        """Send a part of STDOUT: the content of one record as it came."""
        if self.state is State.OVER:
            return
        downstream = self.downstream
        self.last_activity = now = time.monotonic()
        if not self.head_size:
            self.read_head(data)
        after: list[bytes] | None = None
        if self.first_byte is None:
            self.first_byte = now
            self.body.clear()  # the request is not sent again
            if self._early_stderr is not None:
                after = self._send_early_stderr(self.head_size or max(len(data), MAX_HEAD_BUFFER // 2))
        size = len(data)
        self.bytes_out += size
        for start in range(0, size, LARGEST_CONTENT):  # once: what came over SCTP was cut to that
            part = data if size <= LARGEST_CONTENT else data[start : start + LARGEST_CONTENT]
            if len(part) < LONG_PART:
                downstream.write(record(RecordType.STDOUT, self.id, part))
            else:
                downstream.write(header(RecordType.STDOUT, self.id, len(part)))
                downstream.write(part)
        if after:
            self._write_stderr(after)
        if downstream.paused:
            self._owed += size
        else:
            driver = self.link.driver
            driver.connection.consumed(self.request, size)
            driver.wake()

    def send_stderr(self, data: bytes) -> None:
        """Send a part of STDERR, or hold it until the response's head has come."""
        if self.state is State.OVER:
            return
        if self.first_byte is not None:
            self._write_stderr([data])
            return
        if self._early_stderr is None:
            self._early_stderr = EarlyStderr()
        if not self._early_stderr.add(data):
            self.downstream.leave_out(len(data))

    def _write_stderr(self, texts: list[bytes]) -> None:
        downstream = self.downstream
        for text in texts:
            if downstream.may_write_stderr(len(text)):
                for encoded in stream_records(RecordType.STDERR, self.id, text):
                    downstream.write(encoded)
            else:
                downstream.leave_out(len(text))

    def _send_early_stderr(self, head: int) -> list[bytes]:
        """Write the held STDERR that leaves room for a head of `head` bytes; return the rest, for after the head."""
        assert self._early_stderr is not None
        before, after = self._early_stderr.split(head)
        self._early_stderr = None
        for text in before:
            self.downstream.write(record(RecordType.STDERR, self.id, text))
        return after

    def end(self, app_status: int = 0, status: ProtocolStatus = ProtocolStatus.REQUEST_COMPLETE) -> None:
        """End the answer, which is complete."""
        if self.state is State.OVER:
            return
        if self._early_stderr is not None:  # there is no head
            self._write_stderr(self._early_stderr.texts)
            self._early_stderr = None
        self.state = State.OVER
        self.body.clear()  # it is not sent again, and the exchange may be remembered for a while
        if app_status or status is not ProtocolStatus.REQUEST_COMPLETE or not self.bytes_out:
            self.downstream.write(end_request(self.id, app_status, status, closing=self.bytes_out > 0))
        else:
            self.downstream.write(_whole_end(self.id))
        self.downstream.finished(self)

    def fail(self, status: HTTPStatus, why: str, retry_after: int | None = None) -> None:
        """Answer with an error page, for the application sends no (more) answer; cut an answer that has begun."""
        if self.state is State.OVER:
            return
        if self.first_byte is not None:
            self.state = State.OVER
            self.downstream.break_off(self)
            return
        page = error_page(status, self.params.get("REQUEST_METHOD", ""), retry_after)
        self.status = status.value
        early = self._early_stderr = self._early_stderr or EarlyStderr()
        early.texts.insert(0, f"fcgi-sctp: {why}".encode("utf-8", "replace")[:MAX_REASON])
        after = self._send_early_stderr(len(page))
        self.downstream.write(record(RecordType.STDOUT, self.id, page))
        self.bytes_out = len(page)
        self._write_stderr(after)
        self.end()

    def is_whole(self) -> bool:
        return not self.downstream.paused and super().is_whole()

    def waits_for_web_server(self) -> bool:
        """Return whether the web server is the slow side: it does not read the answer, or has not sent all of the input
        that the application wants."""
        downstream = self.downstream
        if downstream.paused:
            return True
        if self.input_closed or downstream.is_held_up_by(self):
            return False
        length = self.params.get("CONTENT_LENGTH", "")  # the input is whole if only the record that closes it misses
        return not (length.isdecimal() and self.bytes_in >= int(length[:18]))

    def drained(self) -> None:
        """Give the credit that is owed: the socket is written again."""
        self.last_activity = time.monotonic()
        if self._owed:
            owed, self._owed = self._owed, 0
            self.link.connection.consumed(self.request, owed)
            self.link.driver.wake()

"""Everything that this package raises.

FcgiSctpError
 +-- ProtocolError
 |    +-- LocalProtocolError    this side was about to break the protocol: a bug here, nothing was sent
 |    +-- RemoteProtocolError   the peer broke it; `request_key` names the request that ends; None: the association does
 +-- RequestRefused             no request can be begun now (limit reached, peer drains, not open)
 +-- ConfigError                the configuration is wrong; lists everything that is, at once
 +-- PluginError                a plugin cannot be used; says which and why
 |    +-- StartAnew             a half cannot use these options while it runs; a new one can
 +-- WorkerError                a worker process ended before it was ready

ClientGone, RequestCut         OSErrors that an application gets: the client has gone, its request's body is not whole
HookTimeout                    ends a hook of a plugin that does not return; not an Exception, which it may swallow

`fcgi_core.sctp.carrier.CarrierError` is the carriers' own: they stand alone.
"""

from __future__ import annotations

__all__ = [
    "FcgiSctpError",
    "ProtocolError",
    "LocalProtocolError",
    "RemoteProtocolError",
    "RequestRefused",
    "StartAnew",
    "ClientGone",
    "RequestCut",
    "ConfigError",
    "PluginError",
    "HookTimeout",
    "NO_EFFECT",
    "WorkerError",
    "foreign_protocol_hint",
]


class FcgiSctpError(Exception):
    """Base of all errors of this package."""


class ProtocolError(FcgiSctpError):
    """Base of the two kinds of protocol error, by culprit."""


class LocalProtocolError(ProtocolError):
    """This side asked for something that the protocol forbids. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol.

    `request_key` is (id, generation) if only that request is to be ended, None if the association must be aborted.
    """

    def __init__(
        self,
        what: str,
        *,
        stream: int | None = None,
        record_type: int | None = None,
        request_key: tuple[int, int] | None = None,
        advice: str = "",
    ) -> None:
        where = []
        if stream is not None:
            where.append(f"stream {stream}")
        if record_type is not None:
            where.append(f"record type {record_type}")
        if request_key is not None:
            where.append(f"request id {request_key[0]} generation {request_key[1]}")
        text = what + (f" ({', '.join(where)})" if where else "") + (f"; {advice}" if advice else "")
        super().__init__(text)
        self.stream = stream
        self.record_type = record_type
        self.request_key = request_key


class RequestRefused(FcgiSctpError):
    """No request can be begun on this connection now; another connection may accept it."""


class ClientGone(ConnectionError):
    """The client has gone and needs no answer; an OSError, which ASGI's send() must raise."""


class RequestCut(ConnectionError):
    """A request's body ended before it had the length that its CONTENT_LENGTH says."""


class ConfigError(FcgiSctpError):
    """The configuration is wrong. `problems` holds one sentence for each thing that is."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class PluginError(FcgiSctpError):
    """A plugin cannot be loaded, or broke its contract."""


class StartAnew(PluginError):
    """Raised by a half's `configure` if it cannot use the options while it runs, and a new half can. None of them has
    been applied."""


class HookTimeout(BaseException):
    """Raised inside a hook that does not return, wherever it is. It is not an Exception, because a loop with
    ``except Exception:`` would go on for ever."""


NO_EFFECT = "no effect here"
"""The beginning of the reason of a refused change, if the change concerns only the other side."""


class WorkerError(FcgiSctpError):
    """A worker process ended before it was ready; its own log says why."""


# First bytes that show a peer speaking something else, and what it speaks.
_FOREIGN = {0x47: "HTTP (a GET)", 0x48: "HTTP", 0x50: "HTTP (a POST or PUT)", 0x53: "SSH", 0x16: "TLS"}


def foreign_protocol_hint(first_byte: int) -> str:
    """Returns a hint about a wrong version byte: what the peer seems to speak; '' if that is unknown."""
    name = _FOREIGN.get(first_byte)
    return f"the peer seems to speak {name}: check the address and port on both sides" if name else ""

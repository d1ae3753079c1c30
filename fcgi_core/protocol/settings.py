"""What the two sides tell each other on stream 1 when an association begins: SETTINGS, as name-value pairs.

Names follow FastCGI's manner (section 4.1: FCGI_MAX_REQS). Unknown names are ignored, so that versions can grow; a
missing version, or one that this side does not speak, is an error.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from itertools import islice

from ..errors import RemoteProtocolError
from .channels import MAX_CHANNELS
from .flow import DEFAULT_WINDOW
from .records import RecordType, decode_pairs, encode_pairs
from .streams import CONTROL_STREAM

__all__ = ["DEFAULT_MAX_MESSAGE", "DEFAULT_MAX_REQUESTS", "PROTOCOL_VERSION", "Settings", "new_instance"]

PROTOCOL_VERSION = 1
DEFAULT_MAX_MESSAGE = 16 * 1024
"""Bytes of the largest message. Without interleaving (RFC 8260) a message holds the whole association while it is
sent; 16 KiB is HTTP/2's default frame (RFC 9113 section 4.2) and TLS's largest record."""
MIN_MAX_MESSAGE = 1024
DEFAULT_MAX_REQUESTS = 1000
"""Requests at once on one association. FastCGI leaves it to the application (FCGI_MAX_REQS); HTTP/2 servers take 100
to 250 for one browser, and a web server is many browsers."""

MAX_NAME = 255
"""Characters of `FCGI_SCTP_NAME`: a host's name, a path. It stands in each line of a log."""
MAX_INSTANCE = 128
"""Characters of `FCGI_SCTP_INSTANCE`; ours have 32."""
MAX_DESCRIPTION = 255
"""Characters of what describes a channel; ours have 100 at most."""
MAX_ACCEPTS = 1024
"""Channels that a peer takes; one side numbers 96 at most, so this is for ten such plugins' worth of changes."""
MAX_OTHERS = 64
"""Pairs of names that are not known here, which are kept; the others are ignored as any unknown name is."""


def new_instance() -> str:
    """An instance's name, 128 bits that nobody guesses: who knows it could pose as its process."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Settings:
    """One side's SETTINGS. Sizes are bytes."""

    max_requests: int = DEFAULT_MAX_REQUESTS
    """Requests that this side takes at once (an application; the web side's is not looked at)."""
    window: int = DEFAULT_WINDOW
    """What this side takes of each request's body before it grants more."""
    max_message: int = DEFAULT_MAX_MESSAGE
    """The largest message that this side takes."""
    instance: str = ""
    """Names this process for as long as it lives; another after a restart."""
    association: int = 0
    """The web side's number of this association; with `instance` and a request's id and generation it names the request
    in the logs of both sides."""
    name: str = ""
    """What people call this process: application, host, worker."""
    channels: tuple[str, ...] = ()
    """Channels that this side sends on, described (``name;scope;priority``); the index is the channel's number."""
    accepts: tuple[str, ...] = ()
    """The channels that this side takes from the peer: described as in `channels`, or by name alone."""
    serial: int = 0
    """Rises with each change of `channels` or `accepts` while the association lives."""
    seen: int = 0
    """The peer's `serial` that this side has taken notice of."""
    others: dict[str, str] = field(default_factory=dict)
    """Pairs of names that this version does not know."""

    def encode(self) -> bytes:
        """The content of the SETTINGS record."""
        pairs = {
            "FCGI_SCTP_VERSION": str(PROTOCOL_VERSION),
            "FCGI_MAX_REQS": str(self.max_requests),
            "FCGI_MPXS_CONNS": "1",
            "FCGI_SCTP_WINDOW": str(self.window),
            "FCGI_SCTP_MAX_MESSAGE": str(self.max_message),
            "FCGI_SCTP_INSTANCE": self.instance,
            "FCGI_SCTP_ASSOCIATION": str(self.association),
            "FCGI_SCTP_NAME": self.name,
            "FCGI_SCTP_ACCEPT": ",".join(self.accepts),
        }
        if self.serial or self.seen:
            pairs |= {"FCGI_SCTP_SERIAL": str(self.serial), "FCGI_SCTP_SEEN": str(self.seen)}
        for number, description in enumerate(self.channels):
            pairs[f"FCGI_SCTP_CHANNEL_{number}"] = description
        return encode_pairs({**pairs, **self.others})

    @classmethod
    def decode(cls, content: bytes) -> Settings:
        """The peer's SETTINGS. RemoteProtocolError names the pair that is wrong."""
        try:
            pairs = decode_pairs(content)
        except ValueError as error:
            raise _wrong(str(error)) from None
        version = pairs.pop("FCGI_SCTP_VERSION", "")
        if version != str(PROTOCOL_VERSION):
            raise _wrong(
                f"FCGI_SCTP_VERSION is {version[:40]!r}; this side speaks version {PROTOCOL_VERSION}",
                "use the same release on both sides",
            )

        pairs.pop("FCGI_MPXS_CONNS", None)
        channels = []
        for index in range(MAX_CHANNELS):
            description = pairs.pop(f"FCGI_SCTP_CHANNEL_{index}", None)
            if description is None:
                break
            channels.append(_text(f"FCGI_SCTP_CHANNEL_{index}", description, MAX_DESCRIPTION))
        accepts = tuple(name for name in pairs.pop("FCGI_SCTP_ACCEPT", "").split(",", MAX_ACCEPTS) if name)
        if len(accepts) > MAX_ACCEPTS:
            raise _wrong(f"FCGI_SCTP_ACCEPT names more than {MAX_ACCEPTS} channels")
        for name in accepts:
            _text("FCGI_SCTP_ACCEPT", name, MAX_DESCRIPTION)
        return cls(
            max_requests=_number(pairs, "FCGI_MAX_REQS", DEFAULT_MAX_REQUESTS, 1, 65535),
            window=_number(pairs, "FCGI_SCTP_WINDOW", DEFAULT_WINDOW, MIN_MAX_MESSAGE, 1 << 40),
            max_message=_number(pairs, "FCGI_SCTP_MAX_MESSAGE", DEFAULT_MAX_MESSAGE, MIN_MAX_MESSAGE, 1 << 30),
            instance=_text("FCGI_SCTP_INSTANCE", pairs.pop("FCGI_SCTP_INSTANCE", ""), MAX_INSTANCE),
            association=_number(pairs, "FCGI_SCTP_ASSOCIATION", 0, 0, 1 << 62),
            name=_text("FCGI_SCTP_NAME", pairs.pop("FCGI_SCTP_NAME", ""), MAX_NAME),
            channels=tuple(channels),
            accepts=accepts,
            serial=_number(pairs, "FCGI_SCTP_SERIAL", 0, 0, 1 << 31),
            seen=_number(pairs, "FCGI_SCTP_SEEN", 0, 0, 1 << 31),
            others=dict(islice(pairs.items(), MAX_OTHERS)),
        )


def _number(pairs: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    """A number, taken out of the pairs. Not a function inside of another one: compiled, that is a circle each time."""
    text = pairs.pop(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise _wrong(f"{name} is {text[:40]!r}; a number from {least} to {most} was expected")
    return int(text)


def _wrong(what: str, advice: str = "") -> RemoteProtocolError:
    return RemoteProtocolError(
        f"SETTINGS: {what}", stream=CONTROL_STREAM, record_type=RecordType.SETTINGS, advice=advice
    )


def _text(name: str, given: str, most: int) -> str:
    if len(given) > most:
        raise _wrong(f"{name} has {len(given)} characters, {given[:40]!r} and so on; at most {most} are taken")
    return given

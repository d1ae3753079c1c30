"""SETTINGS: the name-value pairs that both sides send on stream 1 when an association begins.

Names are in FastCGI's style (section 4.1: FCGI_MAX_REQS). Unknown names are ignored, so that later versions can add
some; a missing or another FCGI_SCTP_VERSION is an error.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from itertools import islice

from ..errors import RemoteProtocolError
from ..sctp.carrier import LARGE_MESSAGE, MESSAGE_SIZE
from .channels import MAX_CHANNELS
from .flow import DEFAULT_WINDOW
from .records import RecordType, decode_pairs, encode_pairs
from .streams import CONTROL_STREAM

__all__ = ["DEFAULT_MAX_REQUESTS", "PROTOCOL_VERSION", "Settings", "new_instance"]

PROTOCOL_VERSION = 1
MIN_MAX_MESSAGE = 1024
DEFAULT_MAX_REQUESTS = 1000
"""Requests at once on one association. FastCGI leaves the number to the application (FCGI_MAX_REQS); HTTP/2 servers
accept 100 to 250 of one browser, and a web server is many browsers."""

MAX_NAME = 255
"""Characters of `FCGI_SCTP_NAME`, the name of a host or a path, which each line of a log has."""
MAX_INSTANCE = 128
"""Characters of `FCGI_SCTP_INSTANCE`; ours have 32."""
MAX_DESCRIPTION = 255
"""Characters of the description of a channel; ours have 100 at most."""
MAX_ACCEPTS = 1024
"""Channels that a peer accepts: ten times as many as one side can number."""
MAX_OTHERS = 64
"""Pairs of unknown names that are kept for the user; more are ignored."""
MAX_GIVEN_UP = 16
"""Associations that `given_up` names: as many as one side may have with a process."""


def new_instance() -> str:
    """A random name of 128 bits for a process: a peer that guessed it could pose as the process."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Settings:
    """One side's SETTINGS. Sizes are bytes."""

    max_requests: int = DEFAULT_MAX_REQUESTS
    """Requests that this side accepts at once (an application; the web side's is ignored)."""
    window: int = DEFAULT_WINDOW
    """Bytes of each request's body that this side accepts before it grants more."""
    max_message: int = LARGE_MESSAGE
    """The largest message that this side accepts, and sends where the association carries it well."""
    instance: str = ""
    """Identifies this process; another one after a restart."""
    association: int = 0
    """The web side's number of this association; with `instance` and a request's id and generation it identifies the
    request in the logs of both sides."""
    max_associations: int = 1
    """Associations that an application accepts from one process of a web side, or that a web side may make with one
    process of an application. With more than 1 this side understands LOAD."""
    given_up: tuple[int, ...] = ()
    """The numbers of the associations with this application that the web side has given up, the latest last."""
    name: str = ""
    """The name of this process for people: application, host, worker."""
    channels: tuple[str, ...] = ()
    """Descriptions (`Channel.describe`) of the channels that this side sends on; the index is the channel's number."""
    accepts: tuple[str, ...] = ()
    """Descriptions or names of the channels that this side accepts."""
    serial: int = 0
    """Rises with each change of `channels` or `accepts` while the association lives."""
    seen: int = 0
    """The peer's latest `serial` that this side has seen."""
    others: dict[str, str] = field(default_factory=dict)
    """Pairs of names that this version does not define."""

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
        if self.max_associations > 1:
            pairs["FCGI_SCTP_MAX_ASSOCS"] = str(self.max_associations)
        if self.given_up:
            pairs["FCGI_SCTP_GIVEN_UP"] = ",".join(map(str, self.given_up))
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
            what = f"FCGI_SCTP_VERSION is {version[:40]!r}; this side speaks version {PROTOCOL_VERSION}"
            raise _wrong(what, "use the same release on both sides")

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
        given_up = tuple(pairs.pop("FCGI_SCTP_GIVEN_UP", "").split(",", MAX_GIVEN_UP)[:MAX_GIVEN_UP])
        return cls(
            max_requests=_number(pairs, "FCGI_MAX_REQS", DEFAULT_MAX_REQUESTS, 1, 65535),
            window=_number(pairs, "FCGI_SCTP_WINDOW", DEFAULT_WINDOW, MIN_MAX_MESSAGE, 1 << 40),
            max_message=_number(pairs, "FCGI_SCTP_MAX_MESSAGE", MESSAGE_SIZE, MIN_MAX_MESSAGE, 1 << 30),
            instance=_text("FCGI_SCTP_INSTANCE", pairs.pop("FCGI_SCTP_INSTANCE", ""), MAX_INSTANCE),
            association=_number(pairs, "FCGI_SCTP_ASSOCIATION", 0, 0, 1 << 62),
            max_associations=_number(pairs, "FCGI_SCTP_MAX_ASSOCS", 1, 1, 65535),
            given_up=tuple(int(one) for one in given_up if one.isascii() and one.isdigit() and len(one) < 20),
            name=_text("FCGI_SCTP_NAME", pairs.pop("FCGI_SCTP_NAME", ""), MAX_NAME),
            channels=tuple(channels),
            accepts=accepts,
            serial=_number(pairs, "FCGI_SCTP_SERIAL", 0, 0, 1 << 31),
            seen=_number(pairs, "FCGI_SCTP_SEEN", 0, 0, 1 << 31),
            others=dict(islice(pairs.items(), MAX_OTHERS)),
        )


def _number(pairs: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    """Remove a number from the pairs."""
    text = pairs.pop(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise _wrong(f"{name} is {text[:40]!r}; a number from {least} to {most} was expected")
    return int(text)


def _wrong(what: str, advice: str = "") -> RemoteProtocolError:
    kind = RecordType.SETTINGS
    return RemoteProtocolError(f"SETTINGS: {what}", stream=CONTROL_STREAM, record_type=kind, advice=advice)


def _text(name: str, given: str, most: int) -> str:
    if len(given) > most:
        raise _wrong(f"{name} has {len(given)} characters, {given[:40]!r} and so on; at most {most} are accepted")
    return given

"""The options of the plugin, under ``plugins: syslog:``. Both sides read the same options."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from fcgi_core.plugin import MAX_ITEM, SEVERITIES, FromPeer, Plugin, severity_number
from fcgi_core.plugin import SECRETS as SECRETS_MATCH

__all__ = ["Output", "Pattern", "Redaction", "SyslogOptions"]

HEADER_ROOM = 64 << 10
"""Bytes that an item needs at most in addition to its text: the header, and structured data with clipped values."""
JOURNAL_SOCKET = "/run/systemd/journal/socket"
PORTS = {"udp": 514, "tcp": 601, "tls": 6514}
"""By RFC 5426 section 3.3, RFC 3195 and RFC 5425 section 4.1."""
PER_HOST = frozenset({"severity", "stderr_severity", "patterns", "redact", "hold", "rate", "burst"})
"""Options that can differ between virtual hosts."""


def _known_severity(value: object) -> object:
    """Return the name that the model knows for another spelling: `err` for `error`."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return SEVERITIES[severity_number(str(value))]
        except ValueError:
            pass  # the model says which names are valid
    return value


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"invalid regular expression: {error}") from None
    return value


def _address(value: str) -> str:
    """Check HOST, HOST:PORT or [HOST]:PORT."""
    host, port = split_address(value, 1)
    if not host or not 0 < port < 65536:
        raise ValueError(f"invalid address {value!r}: use HOST, HOST:PORT or [HOST]:PORT")
    return value


def split_address(value: str, default: int) -> tuple[str, int]:
    """Return host and port; ValueError if the port is not a number."""
    if value.startswith("["):
        host, _, rest = value[1:].partition("]")
        return host, int(rest.removeprefix(":")) if rest else default
    host, _, port = value.partition(":")
    return host, int(port) if port else default


SeverityName = Annotated[
    Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"], BeforeValidator(_known_severity)
]
FacilityName = Literal[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "console", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip
Expression = Annotated[str, AfterValidator(_expression)]
Address = Annotated[str, AfterValidator(_address)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Pattern(_Model):
    """Sets the severity of lines on STDERR that match."""

    match: Expression
    """A regular expression that is searched for in the line."""
    severity: SeverityName
    """The severity of a line that matches."""


class Redaction(_Model):
    """Replaces text that must not appear in a log."""

    match: Expression
    """A regular expression; every match in a line's text, its URI and the values of `extra` is replaced."""
    replace: str = "***"
    """The replacement; `\\1` stands for the first group."""

    @model_validator(mode="after")
    def _groups(self) -> Redaction:
        try:
            re.compile(f"{self.match}|").sub(self.replace, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"replace: {error}") from None
        return self


SECRETS = Redaction(match=SECRETS_MATCH, replace=r"\1***")
"""Hides passwords and tokens in query strings."""


class Output(_Model):
    """An output of the web side, in addition to the live feed. Give exactly one of the first seven keys."""

    file: str | None = None
    """A file to append to. `{server_name}` in it becomes the virtual host's name, with unsafe characters replaced."""
    json_file: str | None = Field(None, alias="json")
    """A file to append to, with a JSON object in each line."""
    socket: str | None = None
    """The datagram socket of the system's syslog, such as /dev/log."""
    journal: Annotated[str | None, WithJsonSchema({"anyOf": [{"type": "string"}, {"enum": [True, None]}]})] = None
    """The socket of systemd's journal; `true` for the usual path."""
    udp: Address | None = None
    """A syslog server over UDP (RFC 5424, RFC 5426): HOST[:PORT], default port 514. Lost lines are not noticed."""
    tcp: Address | None = None
    """A syslog server over TCP (RFC 5424, RFC 6587 with octet counts): HOST[:PORT], default port 601."""
    tls: Address | None = None
    """A syslog server over TLS (RFC 5424, RFC 5425): HOST[:PORT], default port 6514."""
    ca: str | None = None
    """TLS: file with the trusted CA certificates; the system's if not given."""
    certificate: str | None = None
    """TLS: file with the client certificate."""
    key: str | None = None
    """TLS: file with the key of `certificate`, if it is in another file."""
    peer_name: str | None = None
    """TLS: the name in the server's certificate, if it differs from the address."""
    severity: SeverityName = "debug"
    """The least severe lines that are written."""
    required: bool = True
    """With `delivery: acknowledged`: a line is acknowledged only after this output has written it."""
    max_bytes: int = Field(64 << 10, ge=480, le=MAX_ITEM)
    """Bytes of a line's text over `tcp` and `tls`; a longer text is cut. `udp` always cuts at 8192. rsyslog cuts at its
    own maxMessageSize, 8k by default."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("journal") is True:
            return {**value, "journal": JOURNAL_SOCKET}
        return value

    @model_validator(mode="after")
    def _one(self) -> Output:
        if len(self._kinds()) != 1:
            raise ValueError("an output needs exactly one of file, json, socket, journal, udp, tcp and tls")
        for path in (self.file, self.json_file, self.socket, self.journal, self.ca, self.certificate, self.key):
            if path is not None and not path.startswith("/"):
                raise ValueError(f"invalid path {path!r}: use an absolute path")
        for path in (self.file, self.json_file):
            if path and set("{}") & set(path.replace("{server_name}", "")):
                raise ValueError(f"invalid path {path!r}: only {{server_name}} can stand in braces")
        if self.tls is None and (self.ca or self.certificate or self.key or self.peer_name):
            raise ValueError("ca, certificate, key and peer_name need tls")
        if self.key and not self.certificate:
            raise ValueError("key needs certificate")
        return self

    def _kinds(self) -> list[str]:
        every = ("file", "json_file", "socket", "journal", "udp", "tcp", "tls")
        return [name for name in every if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        """Return the name of the key that is given."""
        return self._kinds()[0]


class SyslogOptions(Plugin.Options):
    scope: Literal["request", "stream", "association"] = "request"
    """How lines travel, and which side names their virtual host. `request`: all requests share a stream, many lines to
    a message, and urgent lines use a separate stream for each request; the web side names the host. `stream`: each
    request that logs has a separate stream, so a lost packet delays no other request's lines, at a higher cost; the web
    side names the host. `association`: all lines share a stream, and the application names the host."""
    delivery: Literal["plain", "acknowledged"] = "plain"
    """`plain`: lines in transit are lost if the association ends. `acknowledged`: the application keeps each line until
    the web side has written it, and sends it again after a failure; lines travel as with `scope: association`."""
    spool: str | None = None
    """With `delivery: acknowledged`: a folder for files that keep lines even if the application's process is killed. If
    not given, lines are kept in memory."""
    spool_bytes: int = Field(16 << 20, ge=64 << 10, le=1 << 34)
    """With `delivery: acknowledged`: bytes that one process keeps at most; further lines are lost and counted."""
    severity: FromPeer[SeverityName] = "info"
    """The least severe lines that are sent."""
    facility: FacilityName = "user"
    """The facility of every line; `user` is the default of syslog(3)."""
    app_name: str = Field(default="", max_length=48)
    """The APP-NAME of the lines; empty for the application's name."""
    capture: list[Literal["logging", "unpropagated", "warnings", "stderr", "exceptions", "output"]] = Field(
        default=["logging", "warnings", "stderr", "exceptions"]
    )
    """What the application side captures. `unpropagated` adds loggers with `propagate=False`; `output` is everything
    written to sys.stdout and sys.stderr."""
    listen: str | None = None
    """Application side: path of a datagram socket for programs that call syslog(3), such as /dev/log."""
    stderr: Literal["take", "copy"] = "take"
    """`take`: STDERR of the application becomes lines. `copy`: it also goes to the web server, as in plain FastCGI."""
    stderr_severity: FromPeer[SeverityName] = "notice"
    """The severity of a line on STDERR that does not show one."""
    patterns: list[Pattern] = Field(default=[])
    """Set the severity of lines on STDERR; the first match counts, before any guess."""
    redact: list[Redaction] = Field(default=[SECRETS])
    """Replacements made before a line leaves the application; the default hides passwords and tokens in URIs."""
    hold: FromPeer[bool] = False
    """Hold lines less severe than `severity` while their request runs, and send them if its response is 5xx."""
    rate: FromPeer[int] = Field(default=0, ge=0)
    """Lines a second that one virtual host may send from one process in the long run; 0 for no limit. `crit` and more
    severe lines are always sent."""
    burst: FromPeer[int] = Field(default=1000, ge=1)
    """Lines that a virtual host may send at once before `rate` limits it."""
    max_message: int = Field(default=256 << 10, ge=480, le=MAX_ITEM - HEADER_ROOM)
    """Bytes of a line's text; a longer text is cut, and says how long it was."""
    outputs: list[Output] = Field(default=[])
    """Where the web side writes lines, in addition to the live feed."""

    @model_validator(mode="after")
    def _paths(self) -> SyslogOptions:
        for path in (self.spool, self.listen):
            if path is not None and not path.startswith("/"):
                raise ValueError(f"invalid path {path!r}: use an absolute path")
        if self.spool is not None and self.delivery == "plain":
            raise ValueError("spool needs delivery: acknowledged")
        places = [(output.kind, getattr(output, output.kind)) for output in self.outputs]
        for kind, where in places:
            if places.count((kind, where)) > 1:
                raise ValueError(f"outputs: {kind.removesuffix('_file')} {where} is listed twice; keep one")
        return self

    @property
    def by_request(self) -> bool:
        """Whether the web side names the virtual host of each line, from the request that it knows."""
        return self.scope != "association" and self.delivery == "plain"

    @property
    def own_streams(self) -> bool:
        """Whether each request has a separate stream for its lines."""
        return self.scope == "stream" and self.delivery == "plain"

    @property
    def batched(self) -> str:
        """The channel on which many lines travel together."""
        return "syslog.process" if self.own_streams else "syslog"

    def for_all_hosts(self) -> dict[str, object]:
        """Return the options that cannot differ between virtual hosts."""
        return {name: value for name, value in self if name not in PER_HOST}

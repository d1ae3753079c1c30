"""The options of the plugin, under ``plugins: syslog:``; both sides read the same."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from fcgi_core.plugin import MAX_ITEM, SEVERITIES, FromPeer, Plugin, severity_number
from fcgi_core.plugin import SECRETS as SECRETS_MATCH

__all__ = ["Output", "Pattern", "Redaction", "SyslogOptions"]

HEADER_ROOM = 64 << 10
"""What an item needs at most beside its text: header, and structured data whose values are clipped."""
JOURNAL_SOCKET = "/run/systemd/journal/socket"
PORTS = {"udp": 514, "tcp": 601, "tls": 6514}
"""By RFC 5426 section 3.3, RFC 3195 and RFC 5425 section 4.1."""
PER_HOST = frozenset({"severity", "stderr_severity", "patterns", "redact", "hold", "rate", "burst"})
"""Options that a virtual host can have of its own."""


def _known_severity(value: object) -> object:
    """Other spellings, to the one that the model names: `error` is `err`."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return SEVERITIES[severity_number(str(value))]
        except ValueError:
            pass  # the model tells what would be right
    return value


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


def _address(value: str) -> str:
    """HOST, HOST:PORT or [HOST]:PORT."""
    host, port = split_address(value, 1)
    if not host or not 0 < port < 65536:
        raise ValueError("HOST, HOST:PORT or [HOST]:PORT was expected")
    return value


def split_address(value: str, default: int) -> tuple[str, int]:
    """Host and port; ValueError if there is a port that is no number."""
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
    """What tells the severity of a line on STDERR."""

    match: Expression
    """A regular expression, searched for in the line."""
    severity: SeverityName
    """What a line has that matches."""


class Redaction(_Model):
    """What is not to be read in a log."""

    match: Expression
    """A regular expression; every match in a text, a URI and the values of `extra` is replaced."""
    replace: str = "***"
    """What comes in its place; `\\1` stands for the first group."""

    @model_validator(mode="after")
    def _groups(self) -> Redaction:
        try:
            re.compile(f"{self.match}|").sub(self.replace, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"replace: {error}") from None
        return self


SECRETS = Redaction(match=SECRETS_MATCH, replace=r"\1***")
"""Parameters of a query string that are no business of who reads the log."""


class Output(_Model):
    """Where the web side writes lines to, beside the live feed: one of the first seven."""

    file: str | None = None
    """A file to append to. `{server_name}` in it is replaced by the virtual host's name, made safe."""
    json_file: str | None = Field(None, alias="json")
    """The same, with a JSON object in each line."""
    socket: str | None = None
    """A datagram socket of the system's syslog, as /dev/log is."""
    journal: Annotated[str | None, WithJsonSchema({"anyOf": [{"type": "string"}, {"enum": [True, None]}]})] = None
    """The socket of systemd's journal; `true` for the usual one."""
    udp: Address | None = None
    """A syslog server, RFC 5424 in datagrams (RFC 5426): HOST[:PORT], port 514. Nobody tells when a line is lost."""
    tcp: Address | None = None
    """The same over TCP, with octet counts (RFC 6587): HOST[:PORT], port 601."""
    tls: Address | None = None
    """The same over TLS (RFC 5425): HOST[:PORT], port 6514."""
    ca: str | None = None
    """TLS: file of the certificates that the server's must come from; the system's if not given."""
    certificate: str | None = None
    """TLS: file of our own certificate."""
    key: str | None = None
    """TLS: file of its key, if that is not in the same."""
    peer_name: str | None = None
    """TLS: the name in the server's certificate, if it is not that of the address."""
    severity: SeverityName = "debug"
    """The least severe that is written."""
    required: bool = True
    """With `delivery: acknowledged`: a line is taken over when this output has written it."""
    max_bytes: int = Field(64 << 10, ge=480, le=MAX_ITEM)
    """Bytes of a line's text over `tcp` and `tls`; `udp` takes 8192 at most. rsyslog cuts what is longer than its own
    maxMessageSize, 8k if not set."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("journal") is True:
            return {**value, "journal": JOURNAL_SOCKET}
        return value

    @model_validator(mode="after")
    def _one(self) -> Output:
        if len(self._kinds()) != 1:
            raise ValueError("one of file, json, socket, journal, udp, tcp and tls is needed")
        for path in (self.file, self.json_file, self.socket, self.journal, self.ca, self.certificate, self.key):
            if path is not None and not path.startswith("/"):
                raise ValueError(f"{path!r}: an absolute path is needed")
        for path in (self.file, self.json_file):
            if path and set("{}") & set(path.replace("{server_name}", "")):
                raise ValueError(f"{path!r}: {{server_name}} is all that can stand in braces")
        if self.tls is None and (self.ca or self.certificate or self.key or self.peer_name):
            raise ValueError("ca, certificate, key and peer_name are for tls")
        if self.key and not self.certificate:
            raise ValueError("a key needs its certificate")
        return self

    def _kinds(self) -> list[str]:
        every = ("file", "json_file", "socket", "journal", "udp", "tcp", "tls")
        return [name for name in every if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        """The name of the one that is given."""
        return self._kinds()[0]


class SyslogOptions(Plugin.Options):
    scope: Literal["request", "stream", "association"] = "request"
    """`request`: lines name their request, and the web side says whose they are; those of all requests share a stream
    and travel many together, urgent ones each on a stream of its request's own. `stream`: every request that says
    something has a stream of its own for it, so that a lost packet holds up no other's lines; dearer. `association`:
    all lines of an application share a stream, and the application says whose they are."""
    delivery: Literal["plain", "acknowledged"] = "plain"
    """`acknowledged`: lines are kept until the web side has written them, and sent again if it dies; they travel as
    with `scope: association`."""
    spool: str | None = None
    """With `delivery: acknowledged`: a folder for files that keep lines when the application's process is killed; in
    memory alone if not given."""
    spool_bytes: int = Field(16 << 20, ge=64 << 10, le=1 << 34)
    """With `delivery: acknowledged`: what one process keeps at most; beyond it lines are lost and counted."""
    severity: FromPeer[SeverityName] = "info"
    """The least severe that is sent."""
    facility: FacilityName = "user"
    """The facility of every line; `user` is syslog(3)'s own default."""
    app_name: str = Field(default="", max_length=48)
    """What the lines say wrote them; empty: the application's name."""
    capture: list[Literal["logging", "unpropagated", "warnings", "stderr", "exceptions", "output"]] = Field(
        default=["logging", "warnings", "stderr", "exceptions"]
    )
    """What the application side takes lines from. `unpropagated`: of loggers with `propagate=False`, too; `output`:
    what the process prints, to sys.stdout and sys.stderr."""
    listen: str | None = None
    """Application side: path of a datagram socket for programs that call syslog(3), as /dev/log is."""
    stderr: Literal["take", "copy"] = "take"
    """`take`: what the application writes to STDERR becomes lines. `copy`: it also goes to the web server, as
    FastCGI has it."""
    stderr_severity: FromPeer[SeverityName] = "notice"
    """The severity of a line on STDERR that shows none itself."""
    patterns: list[Pattern] = Field(default=[])
    """What tells the severity of a line on STDERR before anything else does; the first that matches."""
    redact: list[Redaction] = Field(default=[SECRETS])
    """What is replaced before a line leaves the application; the default hides passwords and tokens in URIs."""
    hold: FromPeer[bool] = False
    """Lines below `severity` are kept for as long as their request runs, and sent as if they had it when its response
    is 5xx."""
    rate: FromPeer[int] = Field(default=0, ge=0)
    """Lines a second that one virtual host may send from one process, over a longer time; 0: any number. `crit` and
    worse always go."""
    burst: FromPeer[int] = Field(default=1000, ge=1)
    """Lines that it may send at once before `rate` matters."""
    max_message: int = Field(default=256 << 10, ge=480, le=MAX_ITEM - HEADER_ROOM)
    """Bytes of one line's text; a longer one is cut, and says how long it was."""
    outputs: list[Output] = Field(default=[])
    """Where the web side writes lines to, beside the live feed."""

    @model_validator(mode="after")
    def _paths(self) -> SyslogOptions:
        for path in (self.spool, self.listen):
            if path is not None and not path.startswith("/"):
                raise ValueError(f"{path!r}: an absolute path is needed")
        if self.spool is not None and self.delivery == "plain":
            raise ValueError("a spool is for delivery: acknowledged")
        places = [(output.kind, getattr(output, output.kind)) for output in self.outputs]
        for kind, where in places:
            if places.count((kind, where)) > 1:
                raise ValueError(
                    f"outputs: {kind.removesuffix('_file')} {where} stands twice, and would have each line twice"
                )
        return self

    @property
    def by_request(self) -> bool:
        """Whether the web side says whose lines are, for it knows the requests."""
        return self.scope != "association" and self.delivery == "plain"

    @property
    def own_streams(self) -> bool:
        """Whether each request has a stream of its own for its lines."""
        return self.scope == "stream" and self.delivery == "plain"

    @property
    def batched(self) -> str:
        """The channel on which lines travel many together."""
        return "syslog.process" if self.own_streams else "syslog"

    def for_all_hosts(self) -> dict[str, object]:
        """The options that no virtual host can have of its own."""
        return {name: value for name, value in self if name not in PER_HOST}

"""The declaration: options, channels and the two halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fcgi_core.channels import MAX_ITEM
from fcgi_core.plugin import (
    ApplicationHalf,
    ApplicationHost,
    Channel,
    Plugin,
    Priority,
    Scope,
    WebHalf,
    WebHost,
)
from fcgi_core.text import SEVERITIES, severity_number

__all__ = ["Output", "SyslogOptions", "SyslogPlugin", "plugin"]

ASSOCIATION_QUEUE = 8 << 20
"""Bytes that may wait on one association: some 80 ms of 100,000 lines a second, 1 KiB each."""
REQUEST_QUEUE = 1 << 20
HEADER_ROOM = 64 << 10
"""What an item needs at most beside its text: header, and structured data whose values are clipped."""


def _known_severity(value: object) -> object:
    """Other spellings, to the one that the model names: `error` is `err`."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return SEVERITIES[severity_number(str(value))]
        except ValueError:
            pass  # the model tells what would be right
    return value


SeverityName = Annotated[
    Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"], BeforeValidator(_known_severity)
]
FacilityName = Literal[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "console", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip


class Output(BaseModel):
    """Where the web side writes lines to, beside the live feed: a file, or the system's syslog."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    file: str | None = None
    """A file to append to. `{server_name}` in it is replaced by the virtual host's name, made safe."""
    socket: str | None = None
    """A datagram socket of the system's syslog, as /dev/log is."""
    severity: SeverityName = "debug"
    """The least severe that is written."""

    @model_validator(mode="after")
    def _one(self) -> Output:
        if (self.file is None) == (self.socket is None):
            raise ValueError("one of `file` and `socket` is needed")
        path = self.file or self.socket or ""
        if not path.startswith("/"):
            raise ValueError(f"{path!r}: an absolute path is needed")
        if self.file and set("{}") & set(self.file.replace("{server_name}", "")):
            raise ValueError(f"{path!r}: {{server_name}} is all that can stand in braces")
        return self


class SyslogOptions(Plugin.Options):
    scope: Literal["request", "association"] = "request"
    """`request`: each request's lines travel on a stream of their own, and the web side says whose they are.
    `association`: all lines of an application share a stream, and the application says it."""
    severity: SeverityName = "info"
    """The least severe that the application side sends."""
    facility: FacilityName = "user"
    """The facility of every line; `user` is syslog(3)'s own default."""
    app_name: str = Field(default="", max_length=48)
    """What the lines say wrote them; empty: the application's name."""
    capture: list[Literal["logging", "warnings", "stderr", "exceptions"]] = Field(
        default=["logging", "warnings", "stderr", "exceptions"]
    )
    """What the application side takes lines from."""
    stderr: Literal["take", "copy"] = "take"
    """`take`: what the application writes to STDERR becomes lines. `copy`: it also goes to the web server, as
    FastCGI has it."""
    stderr_severity: SeverityName = "notice"
    """The severity of a line on STDERR that shows none itself."""
    max_message: int = Field(default=256 << 10, ge=480, le=MAX_ITEM - HEADER_ROOM)
    """Bytes of one line's text; a longer one is cut, and says how long it was."""
    outputs: list[Output] = Field(default=[])
    """Where the web side writes lines to, beside the live feed."""


class SyslogPlugin(Plugin):
    """What the application says, line by line, on the web server's side: RFC 5424 over the feedback channel."""

    name = "syslog"
    version = "1"

    class Options(SyslogOptions):
        """See `SyslogOptions`."""

    def channels(self, options: SyslogOptions) -> Sequence[Channel]:
        association = [
            Channel("syslog", Scope.ASSOCIATION, queue_bytes=ASSOCIATION_QUEUE),
            Channel("syslog.urgent", Scope.ASSOCIATION, priority=Priority.URGENT, queue_bytes=ASSOCIATION_QUEUE),
        ]
        if options.scope == "association":
            return association
        return [
            Channel("syslog", Scope.REQUEST, queue_bytes=REQUEST_QUEUE),
            Channel("syslog.urgent", Scope.REQUEST, priority=Priority.URGENT, queue_bytes=REQUEST_QUEUE),
            Channel("syslog.process", Scope.ASSOCIATION, queue_bytes=ASSOCIATION_QUEUE),
            Channel(
                "syslog.process.urgent", Scope.ASSOCIATION, priority=Priority.URGENT, queue_bytes=ASSOCIATION_QUEUE
            ),
        ]

    def application_half(self, host: ApplicationHost, options: SyslogOptions) -> ApplicationHalf:
        from .application import SyslogApplication  # each process needs but one half

        return SyslogApplication(host, options)

    def web_half(self, host: WebHost, options: SyslogOptions) -> WebHalf:
        from .web import SyslogWeb

        return SyslogWeb(host, options)


plugin = SyslogPlugin

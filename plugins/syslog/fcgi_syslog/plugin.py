"""Declares the plugin: its options, channels and two halves."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fcgi_core.plugin import (
    ApplicationHalf,
    ApplicationHost,
    Channel,
    Plugin,
    Priority,
    Scope,
    WebHalf,
    WebHost,
    folder_problem,
)

from .options import Output, SyslogOptions

__all__ = ["Output", "SyslogOptions", "SyslogPlugin", "plugin"]

ASSOCIATION_QUEUE = 32 << 20
"""Bytes that may wait on one association: a second of 100,000 lines, 300 bytes each with request data."""
REQUEST_QUEUE = 1 << 20
URGENT_QUEUE = 2 << 20
"""Bytes. Urgent lines are few; a separate queue keeps room for them."""


class SyslogPlugin(Plugin):
    """The application's log lines on the web server's side, each with its request, as RFC 5424 messages."""

    name = "syslog"
    version = "1"
    switched_by_peer = True

    class Options(SyslogOptions):
        """See `SyslogOptions`."""

    def channels(self, options: SyslogOptions) -> Sequence[Channel]:
        if options.delivery == "acknowledged":
            return [
                Channel(
                    "syslog", queue_bytes=options.spool_bytes, acknowledged=True, spool=options.spool, counted=True
                ),
                Channel(
                    "syslog.urgent",
                    priority=Priority.URGENT,
                    queue_bytes=URGENT_QUEUE,
                    acknowledged=True,
                    spool=options.spool,
                ),
            ]
        if options.scope == "association":
            return [
                Channel("syslog", Scope.ASSOCIATION, queue_bytes=ASSOCIATION_QUEUE, counted=True),
                _urgent("syslog.urgent", Scope.ASSOCIATION, URGENT_QUEUE),
            ]
        channels = [
            Channel(options.batched, Scope.ASSOCIATION, queue_bytes=ASSOCIATION_QUEUE, counted=True),
            _urgent("syslog.urgent", Scope.REQUEST, REQUEST_QUEUE),
            _urgent("syslog.process.urgent", Scope.ASSOCIATION, URGENT_QUEUE),
        ]
        if options.own_streams:
            channels.append(Channel("syslog", Scope.REQUEST, queue_bytes=REQUEST_QUEUE))
        return channels

    def missing(self, options: SyslogOptions, web: bool) -> Sequence[str]:
        folders: dict[str, str] = {}
        problems = []
        if web:
            for number, output in enumerate(options.outputs):
                if (path := output.file or output.json_file) is not None:
                    folders[f"outputs.{number}"] = os.path.dirname(path.partition("{server_name}")[0] or path)
                if output.tls is not None and (problem := _tls_problem(output)):
                    problems.append(f"outputs.{number}: {problem}")
        else:
            if options.spool is not None:
                folders["spool"] = options.spool
            if options.listen is not None:
                folders["listen"] = os.path.dirname(options.listen)
        return problems + [f"{name}: {why}" for name, folder in folders.items() if (why := folder_problem(folder))]

    def application_half(self, host: ApplicationHost, options: SyslogOptions) -> ApplicationHalf:
        from .application import SyslogApplication  # each process needs but one half

        return SyslogApplication(host, options)

    def web_half(self, host: WebHost, options: SyslogOptions) -> WebHalf:
        from .web import SyslogWeb

        return SyslogWeb(host, options)


def _urgent(name: str, scope: Scope, queue_bytes: int) -> Channel:
    """Urgent lines wait for none of each other: each says when it was written."""
    return Channel(name, scope, priority=Priority.URGENT, ordered=False, queue_bytes=queue_bytes)


def _tls_problem(output: Output) -> str:
    from .stream_sink import tls_context

    try:
        tls_context(output.ca, output.certificate, output.key)
    except OSError as error:
        return f"the files for tls cannot be used: {error.strerror or error}"
    return ""


plugin = SyslogPlugin

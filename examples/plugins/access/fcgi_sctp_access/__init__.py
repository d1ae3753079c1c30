"""A JSON access log with figures that the web server lacks: the times on the way, and errors of the application.

A plugin with a web half only: nothing travels, so it needs no channels and no half in the application.
"""

from __future__ import annotations

import json
import time
from typing import Any, TextIO

from fcgi_core.plugin import OptionsByHost, Outcome, Plugin, RequestInfo, StartAnew, WebHalf, WebHost

__all__ = ["AccessPlugin", "plugin"]


class AccessPlugin(Plugin):
    """A JSON access log with figures that the web server lacks."""

    name = "access"
    version = "0.1"

    class Options(Plugin.Options):
        file: str = "/var/log/fcgi-sctp/access.json"
        """The log file, with a JSON object in each line."""
        slower_than: float = 0.0
        """Seconds; only requests that took at least this long are written."""

    def web_half(self, host: WebHost, options: Any) -> WebHalf:
        return AccessLog(options)


class AccessLog(WebHalf):
    def __init__(self, options: Any) -> None:
        self.path = options.file
        self.options = OptionsByHost(options)
        self.file: TextIO = open(options.file, "a", encoding="utf-8")  # noqa: SIM115  closed by close()

    def configure(self, options: Any, server_name: str | None = None) -> None:
        if options.file != self.path:
            if server_name is not None:
                raise ValueError("access.file must be the same for all virtual hosts")
            raise StartAnew("another file")
        self.options.change(options, server_name)

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        if outcome.duration < self.options[request.server_name].slower_than:
            return
        params = request.params
        line = {
            "time": round(time.time(), 3),
            "request": request.identity,
            "server_name": params.get("SERVER_NAME", ""),
            "method": params.get("REQUEST_METHOD", ""),
            "uri": params.get("REQUEST_URI", ""),
            "remote": params.get("REMOTE_ADDR", ""),
            "status": outcome.status,
            "bytes_in": outcome.bytes_in,
            "bytes_out": outcome.bytes_out,
            "seconds": round(outcome.duration, 6),
            "first_byte": None if outcome.first_byte is None else round(outcome.first_byte, 6),
            "aborted": outcome.aborted,
            "error": outcome.error,
        }
        # JSON escapes newlines and control characters
        self.file.write(json.dumps(line) + "\n")

    def tick(self) -> None:
        self.file.flush()

    def reopen(self) -> None:
        self.file.close()
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def close(self) -> None:
        self.file.close()


plugin = AccessPlugin

"""What a line says about its request, from the request's PARAMS. Both sides use it."""

from __future__ import annotations

from collections.abc import Callable

from fcgi_core.plugin import RequestInfo, values_of

from .message import ENTERPRISE

__all__ = ["FIELDS_ELEMENT", "LONGEST_VALUE", "OF_PROCESS", "REQUEST_ELEMENT", "details", "server_name"]

REQUEST_ELEMENT = f"fcgi@{ENTERPRISE}"
"""The SD-ELEMENT about the request."""
FIELDS_ELEMENT = f"fields@{ENTERPRISE}"
"""The SD-ELEMENT with the fields that the application added to a line (`extra` of Python's logging)."""
LONGEST_VALUE = 1024
"""Characters of one value; a URI can have 8 KiB."""
_NAMES = ("method", "uri", "script", "remote")
_PARAMS = (b"REQUEST_METHOD", b"REQUEST_URI", b"SCRIPT_NAME", b"REMOTE_ADDR")
OF_PROCESS = ("application", "worker")
"""What the application's process says about itself in REQUEST_ELEMENT."""


def server_name(request: RequestInfo) -> str:
    """Return SERVER_NAME as the web server passed it, '' if it did not."""
    return _readable(request.server_name)


def details(params: bytes, redact: Callable[[str], str]) -> dict[str, str]:
    """Return method, URI, script and remote address, as far as PARAMS have them, with secrets in the URI redacted."""
    about = {}
    for name, value in zip(_NAMES, values_of(params, _PARAMS), strict=True):
        if value:
            about[name] = value if len(value) <= LONGEST_VALUE and value.isascii() else _readable(value)
    if "uri" in about:
        about["uri"] = redact(about["uri"])
    return about


def _readable(value: str) -> str:
    value = value[:LONGEST_VALUE]
    if value.isascii():
        return value
    return value.encode("latin-1", "replace").decode("utf-8", "backslashreplace")  # bytes, as PEP 3333 carries them

"""What a line says about its request: the same on both sides, from the request's PARAMS."""

from __future__ import annotations

from fcgi_core.plugin import RequestInfo

from .message import ENTERPRISE

__all__ = ["FIELDS_ELEMENT", "LONGEST_VALUE", "REQUEST_ELEMENT", "details", "server_name"]

REQUEST_ELEMENT = f"fcgi@{ENTERPRISE}"
"""The SD-ELEMENT about the request."""
FIELDS_ELEMENT = f"fields@{ENTERPRISE}"
"""The SD-ELEMENT with what the application added to a line (`extra` of Python's logging)."""
LONGEST_VALUE = 1024
"""Characters of one value; a URI can have 8 KiB."""
_PARAMS = {"method": "REQUEST_METHOD", "uri": "REQUEST_URI", "remote": "REMOTE_ADDR"}


def server_name(request: RequestInfo) -> str:
    """The virtual host, as the web server passed it; '' if it did not."""
    return _text(request, "SERVER_NAME")


def details(request: RequestInfo) -> dict[str, str]:
    """Method, URI and remote address, as far as they are there."""
    return {name: value for name, param in _PARAMS.items() if (value := _text(request, param))}


def _text(request: RequestInfo, param: str) -> str:
    value = request.params.get(param, "")[:LONGEST_VALUE]
    if value.isascii():
        return value
    return value.encode("latin-1", "replace").decode("utf-8", "backslashreplace")  # bytes, as PEP 3333 carries them

"""Makes an ASGI HTTP scope from CGI variables (ASGI 3.0, "HTTP & WebSocket ASGI Message Format", 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .gateway import is_secure, server_of, split_path

__all__ = ["ASGI_VERSIONS", "make_scope"]

ASGI_VERSIONS = {"version": "3.0", "spec_version": "2.4"}
"""Since 2.4 send() raises an OSError when the client has gone."""
MAX_KNOWN_NAMES = 1000
"""Header names whose translation is kept; clients can make up names, so their number is bounded."""
MAX_KNOWN_NAME = 128
"""Characters of a name that is kept."""

_header_names: dict[str, bytes] = {}
_OWN = {"HTTP_CONTENT_TYPE": b"content-type", "HTTP_CONTENT_LENGTH": b"content-length"}
"""CGI passes these two headers without HTTP_ (RFC 3875 section 4.1); nginx passes them with HTTP_, too."""


def make_scope(params: Mapping[str, str], script_name: str = "") -> dict[str, Any]:
    """Return the scope of one request; `script_name` is used as in `split_path`. ASGI's path includes the root path."""
    get = params.get
    root, info = split_path(params, script_name)
    path = root + info
    uri = get("REQUEST_URI", "").partition("?")[0]
    raw_path = uri.encode("latin-1") if uri.startswith("/") else quote(path.encode("latin-1")).encode()
    secure = is_secure(params)
    protocol = get("SERVER_PROTOCOL", "HTTP/1.1")
    version = protocol[5:] if protocol.startswith("HTTP/") else "1.1"
    return {
        "type": "http",
        "asgi": ASGI_VERSIONS,
        "http_version": "2" if version == "2.0" else "3" if version == "3.0" else version,
        "method": get("REQUEST_METHOD", "GET").upper(),
        "scheme": "https" if secure else "http",
        "path": _text(path) or "/",
        "raw_path": raw_path,
        "query_string": get("QUERY_STRING", "").encode("latin-1"),
        "root_path": _text(root),
        "headers": _headers(params),
        "client": _endpoint(get("REMOTE_ADDR"), get("REMOTE_PORT")),
        "server": _endpoint(*server_of(params, secure)),
        "extensions": {},
    }


def _text(path: str) -> str:
    """Decode the UTF-8 bytes that CGI gives as latin-1."""
    return path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")


def _endpoint(host: str | None, port: str | None) -> tuple[str, int] | None:
    if not host:
        return None
    return host, int(port) if port and port.isascii() and port.isdigit() else 0


def _headers(params: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    headers = []
    known = _header_names
    for name, value in params.items():
        if name.startswith("HTTP_"):
            if name in _OWN:
                continue
            header = known.get(name)
            if header is None:
                header = name[5:].lower().replace("_", "-").encode("latin-1")
                if len(known) < MAX_KNOWN_NAMES and len(name) <= MAX_KNOWN_NAME:
                    known[name] = header
            headers.append((header, value.encode("latin-1")))
    for name, header in _OWN.items():
        own = params.get(name[5:])
        if own:
            headers.append((header, own.encode("latin-1")))
    return headers

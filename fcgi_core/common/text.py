"""Remote text made harmless, and the names of severities, for the log viewer and every log file.

Text from the network is shown through `escape`: on a terminal an escape sequence can set the title, move the
cursor or answer for the user; in a log file a newline forges a line. Escaped text is one line without control
characters and characters that change the direction of the text after them (CVE-2021-42574, "Trojan Source").
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = [
    "SECRETS",
    "SEVERITIES",
    "escape",
    "escape_word",
    "hide_secrets",
    "is_secret",
    "may_have_secrets",
    "name_of_request",
    "severity_number",
]

SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""RFC 5424 section 6.2.1, by number; the names are those of syslog.conf(5)."""
_ALIASES = {
    "emergency": 0,
    "panic": 0,
    "critical": 2,
    "fatal": 2,
    "error": 3,
    "warn": 4,
    "information": 6,
    "trace": 7,
    **{name: number for number, name in enumerate(SEVERITIES)},
}

# C0, DEL and C1; the line and paragraph separators, which are line ends to some programs; characters that embed,
# override or isolate a direction of writing; lone surrogates, which no encoding can write
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _visible(match: re.Match[str]) -> str:
    character = match[0]
    number = ord(character)
    return _SHORT.get(character) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def escape(text: str) -> str:
    r"""Returns `text` as one harmless line: an ESC becomes the four characters ``\x1b``, a newline ``\n``.

    A backslash stays as it is, so that paths and patterns are readable: the result is for people and cannot be decoded.
    """
    if text.isprintable():  # in C, and true of nearly every line
        return text
    return _UNSAFE.sub(_visible, text)


def escape_word(text: str) -> str:
    """Returns `text` as one column of a line: escaped, spaces too; ``-`` if it is empty."""
    return escape(text).replace(" ", "\\x20") or "-"


def name_of_request(params: Mapping[str, str]) -> str:
    """Returns a request's name in our logs: method and URI, without the query, which may hold passwords and tokens."""
    path, _, query = params.get("REQUEST_URI", "").partition("?")
    return escape(f"{params.get('REQUEST_METHOD', '')} {path}{query and '?***'}")


def severity_number(name: str) -> int:
    """Returns 0 to 7 for a name in any case (``error`` or ``err``) or a digit. ValueError says what would be right."""
    text = name.strip().lower()
    number = _ALIASES.get(text)
    if number is not None:
        return number
    if len(text) == 1 and text in "01234567":
        return int(text)
    raise ValueError(f"invalid severity {name!r}: use {', '.join(SEVERITIES)}, or 0 to 7")


_SECRET_NAMES = r"(?i:pass(?:word|wd)?|pwd|secret|(?:access_|refresh_|id_)?token|api_?key|sig(?:nature)?)"
"""A regular expression: names of parameters and fields whose values may not be shown in a log."""
SECRETS = rf"([?&;]{_SECRET_NAMES}=)[^&;\s\"'<>]+"
"""A regular expression: parameters of a query string whose values may not be shown in a log. The first group is the
text before the value."""
_SECRETS = re.compile(SECRETS)
_SECRET_NAME = re.compile(_SECRET_NAMES)


def is_secret(name: str) -> bool:
    """Returns whether the value of a field or parameter of this name may not be shown in a log."""
    return _SECRET_NAME.fullmatch(name) is not None


def may_have_secrets(text: str) -> bool:
    """Returns False if SECRETS matches nothing in the text; much faster than the expression."""
    lower = text.lower()
    # not any(…), which takes longer than all of these
    return (
        not lower.isascii()  # re.IGNORECASE has more ways to write an s
        or "pass" in lower
        or "key=" in lower
        or "token" in lower
        or "secret" in lower
        or "pwd" in lower
        or "sig=" in lower
        or "signature" in lower
    )


def hide_secrets(text: str) -> str:
    """Returns `text` with ``***`` instead of each value that SECRETS finds."""
    if "=" not in text or not may_have_secrets(text):
        return text
    return _SECRETS.sub(r"\1***", text)

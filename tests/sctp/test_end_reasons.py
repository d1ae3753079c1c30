"""What an ABORT says (RFC 9260 section 3.3.10)."""

from __future__ import annotations

import struct

import pytest

from fcgi_core.sctp.end_reasons import MAX_TEXT, abort_cause, aborted, aborted_here


def cause(number: int, text: bytes = b"") -> bytes:
    return struct.pack(">HH", number, 4 + len(text)) + text + bytes(-len(text) % 4)


@pytest.mark.parametrize(
    ("causes", "text"),
    [
        (b"", ""),
        (b"\0\x0c", ""),
        (cause(12), ""),
        (cause(12, b"closing"), "closing"),
        (cause(12, b"\x1b[31mred\n"), "\\x1b[31mred\\n"),
        (cause(12, b"\xff"), "\ufffd"),
        (cause(12, b"x" * 1000), "x" * MAX_TEXT),
        (cause(13), "protocol violation"),
        (cause(13, b"Reass 30000007"), "Reass 30000007"),
        (cause(3, b"\0\0\0\1"), "stale cookie"),
        (cause(99, b"abc") + cause(4), "out of resource"),
        (struct.pack(">HH", 99, 0) * 3, ""),
        (struct.pack(">HH", 12, 60000) + b"cut", "cut"),
    ],
)
def test_abort_cause(causes: bytes, text: str) -> None:
    assert abort_cause(causes) == text


def test_a_reason_follows_a_colon() -> None:
    assert aborted("192.0.2.7:9899") == "192.0.2.7:9899 aborted the association"
    assert aborted_here("closing") == "aborted by this side: closing"

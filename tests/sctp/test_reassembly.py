"""Messages that arrive in parts, whatever the carrier."""

from __future__ import annotations

from fcgi_core.sctp.reassembly import MAX_PARTIAL, Reassembly


def test_parts_of_several_messages_alternate() -> None:
    parts = Reassembly()
    for stream, unordered, number in ((1, False, 7), (1, True, 7), (1, False, 8), (2, False, 7)):
        assert parts.add(stream, unordered, number, b"%d%d%d" % (stream, unordered, number))
    assert parts.finish(1, True, 7, b"!") == b"117!"
    assert parts.finish(2, False, 7, b"!") == b"207!"
    assert parts.finish(1, False, 8, b"!") == b"108!"
    assert parts.finish(1, False, 7, b"!") == b"107!"
    assert parts.finish(1, False, 7, b"whole") == b"whole"
    assert not parts.begun


def test_too_many_bytes() -> None:
    parts = Reassembly()
    assert parts.add(1, False, 0, bytes(MAX_PARTIAL))
    assert not parts.add(2, False, 0, b"x")
    parts.drop(1, 0)
    assert parts.add(2, False, 0, bytes(MAX_PARTIAL - 1))
    parts.finish(2, False, 0, b"")
    assert parts.add(3, False, 0, bytes(MAX_PARTIAL))

"""No line can be forged, whatever a line says, in any form in which it leaves."""

from __future__ import annotations

import json
import re

from fcgi_syslog.formats import format_json, format_message
from fcgi_syslog.journal_sink import format_fields
from fcgi_syslog.message import parse
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.common.text import escape
from fcgi_core.plugin import FeedEntry

ANY_TEXT = st.text(st.characters())
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


@st.composite
def entries(draw: st.DrawFn) -> FeedEntry:
    text = [draw(ANY_TEXT) for _ in range(7)]
    fields = draw(st.none() | st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=4))
    return FeedEntry(0.0, 6, *text[:3], 1, text[3], text[4], text[5], fields, text[6])


@given(entries())
def test_rfc_5424(entry: FeedEntry) -> None:
    data = format_message(entry, 1 << 20)
    assert not CONTROL.search(data.decode())
    message = parse(data)
    assert (message.severity, message.facility, message.text) == (6, 1, escape(entry.message))
    about = message.data.get("fcgi@32473", {})
    assert about.get("server_name", "") == escape(entry.server_name)
    assert about.get("request", "") == escape(entry.request)


@given(entries())
def test_json(entry: FeedEntry) -> None:
    line = format_json(entry)
    assert line.isascii()
    assert not CONTROL.search(line[:-1])
    value = json.loads(line)
    assert value["message"] == entry.message
    assert value.get("server_name", "") == entry.server_name


def test_json_has_no_empty_values() -> None:
    assert json.loads(format_json(FeedEntry(0.5, 3, "x"))) == {
        "time": "1970-01-01T00:00:00.500000Z",
        "severity": "err",
        "facility": 1,
        "message": "x",
    }


def journal_fields(data: bytes) -> list[tuple[bytes, bytes]]:
    """As journald takes a datagram apart."""
    fields = []
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + length], data[8 + length :]
            assert data[:1] == b"\n"
            data = data[1:]
        fields.append((name, value))
    return fields


@given(entries())
def test_journal(entry: FeedEntry) -> None:
    fields = journal_fields(format_fields(entry))
    assert len({name for name, _ in fields}) == len(fields)
    for name, value in fields:
        assert re.fullmatch(rb"(?!_)[A-Z0-9_]{1,64}", name)
        assert not CONTROL.search(value.decode().replace("\n", ""))
        assert b"\n" not in value or name == b"MESSAGE"
    assert dict(fields)[b"PRIORITY"] == b"6"
    assert dict(fields).get(b"FCGI_SERVER_NAME", b"").decode() == escape(entry.server_name)

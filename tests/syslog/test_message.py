"""RFC 5424: what is written can be read, and nothing that is read does harm."""

import pytest
from fcgi_syslog import message as module
from fcgi_syslog.message import FACILITIES, Message, clip, format_data, format_time, parse, read
from hypothesis import given
from hypothesis import strategies as st


def names(longest: int, but: str = "") -> st.SearchStrategy[str]:
    return st.text(
        st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=but), max_size=longest
    ).filter(
        lambda text: text != "-"  # NILVALUE
    )


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
DATA_NAMES = names(32, '=]"').filter(bool)
MESSAGES = st.builds(
    Message,
    text=TEXTS,
    severity=st.integers(0, 7),
    facility=st.integers(0, len(FACILITIES) - 1),
    time=st.none() | st.integers(0, 4_000_000_000_000_000).map(lambda microseconds: microseconds / 1_000_000),
    hostname=names(255),
    app_name=names(48),
    procid=names(128),
    msgid=names(32),
    data=st.dictionaries(DATA_NAMES, st.dictionaries(DATA_NAMES, TEXTS, max_size=4), max_size=3),
)


@given(MESSAGES)
def test_round_trip(message: Message) -> None:
    assert parse(message.encode()) == message
    assert read(message.encode()) == (message, "")


@given(st.binary())
def test_anything_can_be_read(item: bytes) -> None:
    message, problem = read(item)
    try:
        assert parse(item) == message
    except ValueError:
        assert problem
    else:
        assert not problem


@given(MESSAGES, st.data())
def test_a_damaged_message_can_be_read(message: Message, data: st.DataObject) -> None:
    item = bytearray(message.encode())
    place = data.draw(st.integers(0, len(item) - 1))
    item[place] = data.draw(st.integers(0, 255))
    read(bytes(item))
    read(bytes(item[:place]))


def test_the_examples_of_the_rfc() -> None:
    first = parse(
        b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed on /dev/pts/8"
    )
    assert first == Message(
        "'su root' failed on /dev/pts/8", 2, 4, 1065910455.003, "mymachine.example.com", "su", "", "ID47"
    )
    assert (
        parse(b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time").time
        == 1061727255.000003
    )
    only_data = parse(
        b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
        b'[exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"][examplePriority@32473 class="high"]'
    )
    assert only_data.text == ""
    assert only_data.data == {
        "exampleSDID@32473": {"iut": "3", "eventSource": "Application", "eventID": "1011"},
        "examplePriority@32473": {"class": "high"},
    }


def test_structured_data() -> None:
    assert format_data("a b=", {"k]": 'q"b\\c]', "": ""}) == '[a_b_ k_="q\\"b\\\\c\\]" _=""]'
    assert parse(b'<0>1 - - - - - [x a="1" a="2" b="\\n"] ').data == {"x": {"a": "1, 2", "b": "\\n"}}
    long = "v" * 5000  # beyond what is kept taken apart
    assert parse(Message("", data={"x": {"a": long}}).encode()).data == {"x": {"a": long}}


@pytest.mark.parametrize(
    "data",
    [
        "[x" + ' a="1"' * 65 + "]",
        "[x]" * 10 + '[x a="1"]' * 65,
        "[x" + ' a=""' * 110_000 + "]",
        '[x a="' + "v" * 70_000 + '"]',
        '[x a="' + "\\\\" * 40_000 + '"]',
    ],
)
def test_too_much_structured_data_is_not_parsed(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    """A sender does not decide how long we work; the text is there, and says why."""
    monkeypatch.setattr(module, "_parse_data", lambda text: pytest.fail("taken apart"))
    monkeypatch.setattr(module, "_ELEMENT", None)
    item = f"<11>1 - - - - - {data} text".encode()
    message, problem = read(item)
    assert message.severity == 3
    assert message.text.endswith("] text")
    assert "more than 64 parameters" in problem


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_utc_has_no_year_for(when: str) -> None:
    with pytest.raises(ValueError, match="its year in UTC is not 1 to 9999"):
        parse(f"<13>1 {when} - - - - - text".encode())
    assert read(f"<13>1 {when} - - - - - text".encode())[0].time is None


def test_as_many_as_there_may_be() -> None:
    fields = {f"f{number}": "=" * 500 for number in range(64)}
    assert parse(Message("text", data={"x": fields}).encode()) == Message("text", data={"x": fields})


def test_names_that_the_rfc_forbids_are_cleaned() -> None:
    message = Message("text", hostname="a b\n", app_name="ä" * 60, msgid="x" * 40)
    assert message.encode() == b"<13>1 - a_b_ " + b"_" * 48 + b" - " + b"x" * 32 + b" - text"
    assert Message("\udc80").encode().endswith(b" \\udc80")


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (b"", "does not begin with <PRI>"),
        (b"hello", "does not begin with <PRI>"),
        (b"<13>hello", "VERSION after <PRI> is not 1"),
        (b"<13>1 - -", "2 of the 6 header fields"),
        (b"<13>1 - - " + b"x" * 49 + b" - - - text", "APP-NAME is not 1 to 48 printable"),
        (b"<13>1 -  - - - - text", "HOSTNAME is not"),
        ("<13>1 - - - - ä -".encode(), "MSGID is not"),
        (b"<13>1 - - - - a\nb -", "MSGID is not"),
        (b"<13>1 - - - - - ", "structured data"),
        (b"<13>1 - - - - - [x]y", "structured data"),
        (b"<13>1 - - - - - -y", "structured data"),
        (b'<13>1 - - - - - [x a="""]', "structured data"),
        (b"<192>1 - - - - - -", "PRI 192 is not 0 to 191"),
        (b"<01>1 - - - - - -", "PRI 01 is not 0 to 191"),
        (b"<13>1 - - - - - [x", "structured data"),
        (b"<13>1 - - - - - -\n", "structured data"),
        (b"<13>1 2003-13-11T22:14:15Z - - - - -", "TIMESTAMP 2003-13-11T22:14:15Z: month"),
        (b"<13>1 2003-10-11T22:14:15.1234567Z - - - - -", "at most 6 decimals"),
        (b"<13>1 - - - - - - \xff", "byte 18 is not UTF-8"),
    ],
)
def test_what_is_wrong(item: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(item)
    assert problem in read(item)[1]


def test_malformed_messages_are_shown() -> None:
    assert read(b"<11>Oct 11 22:14:15 su: failed")[0] == Message("Oct 11 22:14:15 su: failed", 3, 1)
    assert read(b"<999>x")[0] == Message("<999>x", 5, 1)
    assert read(b"\xff\xfe")[0] == Message("\\xff\\xfe", 5, 1)
    assert read(b"<14>1 - h a - - - caf\xe9") == (
        Message("caf\\xe9", 6, 1, hostname="h", app_name="a"),
        "byte 21 is not UTF-8",
    )


@pytest.mark.parametrize(("severity", "facility"), [(8, 0), (-1, 0), (0, 24), (0, -1)])
def test_out_of_range(severity: int, facility: int) -> None:
    with pytest.raises(ValueError, match=r"invalid (severity|facility)"):
        Message("", severity, facility).encode()


def test_times() -> None:
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"
    assert format_time(1_700_000_000.9999999) == "2023-11-14T22:13:21.000000Z"
    assert format_time(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"


def test_clip() -> None:
    assert clip("four", 4) == "four"
    assert clip("äöü", 6) == "äöü"
    assert clip("äöü", 5) == "äö [cut: 6 bytes in all]"

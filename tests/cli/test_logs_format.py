"""Lines as text: one look for people, one for programs, none that does harm."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from fcgi_cli.logs.events import Line, Lost, Note, Skipped
from fcgi_cli.logs.formats import CONTINUED, Clock, fold, format_json, format_pretty, format_raw
from fcgi_cli.logs.painter import Painter, colour_system
from fcgi_cli.logs.template import template
from hypothesis import given
from hypothesis import strategies as st
from rich.color import ColorSystem

ANY_TEXT = st.text(st.characters())
LINES = st.builds(
    Line,
    number=st.integers(1),
    time=st.floats(-1e11, 1e11),
    severity=st.integers(0, 7),
    message=ANY_TEXT,
    server_name=ANY_TEXT,
    application=ANY_TEXT,
    process=ANY_TEXT,
    kind=ANY_TEXT,
    request=ANY_TEXT,
    fields=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2),
)
LINE = Line(7, 1_700_000_000.1239, 3, "no\n\titem", "shop.example", "cart", "71", "k", "abcdef0123456789", {"uri": "/"})
SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")


def harmful(text: str) -> set[str]:
    controls = {character for character in text if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")}
    return (controls | set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")) - {"\n"}


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times(new_york: None) -> None:
    assert Clock().text(1_700_000_000.9999) == "2023-11-14T17:13:20.999-05:00"
    assert Clock(utc=True).text(1_700_000_000.0) == "2023-11-14T22:13:20.000Z"
    clock = Clock(dated=False)
    assert [clock.text(1_700_000_000.0 + delta) for delta in (0, 0.5, 1)] == [
        "17:13:20.000",
        "17:13:20.500",
        "17:13:21.000",
    ]


def test_forms() -> None:
    clock = Clock(utc=True)
    assert format_pretty(LINE, clock) == (
        "2023-11-14T22:13:20.123Z err     shop.example cart[71] [abcdef0123456789] no\n            item\n"
    )
    assert format_pretty(Line(1, 0.0, 6, "x"), clock) == "1970-01-01T00:00:00.000Z info    - - x\n"
    assert format_pretty(Lost(1), clock) == "-- 1 line lost\n"
    assert format_pretty(Note("connected again"), clock) == "-- connected again\n"
    assert format_raw(LINE) == "no\\n\\titem\n"
    assert format_raw(Lost(2)) == ""
    assert json.loads(format_json(LINE)) == {
        "n": 7,
        "time": 1_700_000_000.1239,
        "severity": 3,
        "message": "no\n\titem",
        "server_name": "shop.example",
        "application": "cart",
        "process": "71",
        "kind": "k",
        "request": "abcdef0123456789",
        "fields": {"uri": "/"},
        "facility": 1,
    }
    assert format_json(Lost(2)) == '{"lost": 2}\n'
    assert format_json(Note("x")) == ""


@given(LINES)
def test_plain_text_is_harmless(line: Line) -> None:
    pretty = format_pretty(line, Clock(utc=True))
    assert not harmful(pretty)
    first, *more = pretty.removesuffix("\n").split("\n")
    assert re.match(r"-?\d+-\d\d-\d\dT", first)
    assert all(text.startswith(CONTINUED) for text in more)
    for text in (format_raw(line), format_json(line)):
        assert not harmful(text)
        assert text.count("\n") == 1
    assert json.loads(format_json(line))["message"] == json.loads(json.dumps(line.message))  # joins surrogates


@given(LINES, st.booleans(), st.sampled_from([0, 20, 50, 70, 100]))
def test_the_terminal_gets_no_sequence_but_ours(line: Line, folded: bool, width: int) -> None:
    painter = painted(folded=folded, width=width)
    text = SEQUENCE.sub("", painter.paint([line, Lost(3)]))
    assert not harmful(text)
    first, *more = text.split("\n")
    assert re.match(r"\d\d:\d\d:\d\d(\.\d{3})? [a-z]+ ", first)
    assert more[-2:] == ["-- 3 lines lost", ""]
    assert all(text.startswith(CONTINUED) for text in more[:-2])
    assert len(more) == 2 or not folded


def painted(*highlights: str, colours: ColorSystem | None = ColorSystem.STANDARD, **options: Any) -> Painter:
    return Painter(Clock(utc=True, dated=False), colours, [re.compile(one) for one in highlights], **options)


def test_colours() -> None:
    painter = painted("item", r"\[red\]")
    names = ["a.example", "b.example", "much-longer.shop.example", "a.example", "x" * 40]
    lines = painter.paint(
        Line(number, 0.0, severity, "no item [red]x[/red]", name, "app", request="0123456789")
        for number, (severity, name) in enumerate(zip((3, 4, 6, 0, 7), names, strict=True))
    ).splitlines()
    plain = [SEQUENCE.sub("", text) for text in lines]
    assert plain[0] == "00:00:00.000 err     a.example app  01234567 no item [red]x[/red]"
    # columns grow, and stay
    assert plain[3] == "00:00:00.000 emerg   a.example                app  01234567 no item [red]x[/red]"
    assert plain[4].split()[2] == "…" + "x" * 27
    host = re.compile(r"(\x1b\[[0-9;]*m) a\.example")
    assert host.findall(lines[0]) == host.findall(lines[3]) != []
    assert "\x1b[31merr" in lines[0]
    assert "\x1b[7mitem\x1b[0m" in lines[0]
    assert "\x1b[30;43m[red]" in lines[0]
    assert not SEQUENCE.search(painted("item", colours=None).paint([LINE]))


def test_what_colours_a_terminal_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for term, truecolor, no_color, found in (
        ("xterm-256color", "", "", ColorSystem.EIGHT_BIT),
        ("xterm-256color", "truecolor", "", ColorSystem.TRUECOLOR),
        ("linux", "", "", ColorSystem.STANDARD),
        ("xterm-256color", "truecolor", "1", None),
        ("dumb", "truecolor", "", None),
    ):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("COLORTERM", truecolor)
        monkeypatch.setenv("NO_COLOR", no_color)
        assert colour_system() is found


def test_several_sources_are_named() -> None:
    painter = painted(colours=None)
    text = painter.paint([Line(1, 0.0, 6, "x", source="paris"), Line(1, 0.0, 6, "y", source="rome")])
    assert [line.split()[0] for line in text.splitlines()] == ["paris", "rome"]
    assert len({line.index("00:00") for line in text.splitlines()}) == 1


def test_long_messages_are_cut_on_a_screen() -> None:
    text = painted().paint([Line(1, 0.0, 6, "x" * 20_000), Line(2, 0.0, 6, "y\n" * 1000)])
    assert "… 20000 characters in all" in text
    assert "… 2000 characters in all" in text
    assert text.count("x") < 10_000
    assert text.count("y") < 300


@pytest.mark.parametrize(
    ("lines", "folded"),
    [
        (["one"], "one"),
        (["one", "two"], "one ⋯ 1 more line"),
        (["no answer", "Traceback (most recent call last):", "  File", "E: x"], "no answer ⋯ 3 more lines: E: x"),
        (["Traceback (most recent call last):", "  File", "E: x", ""], "E: x ⋯ 3 more lines"),
        (["Traceback (most recent call last):", "  File"], "Traceback (most recent call last): ⋯ 1 more line"),
    ],
)
def test_folding(lines: list[str], folded: str) -> None:
    assert fold(lines) == [folded]


def test_a_gap_is_shown() -> None:
    assert format_pretty(Skipped(1234), Clock()) == "-- 1,234 lines not drawn: they came too fast to read\n"
    assert format_json(Skipped(3)) == ""
    assert not harmful(format_pretty(Note("\x1b[2J"), Clock()))


def test_templates() -> None:
    clock = Clock(utc=True)
    form = template(r"{time}\t{level:<8}{host:>14.4} {app} {fields.uri} {fields.none} {n} {{}} {message}", clock)
    assert form(LINE) == "2023-11-14T22:13:20.123Z\terr               shop cart / - 7 {} no\\n\\titem\n"
    for text, complaint in (
        ("{nothing}", "unknown name 'nothing'; names are time"),
        ("{message!r}", "only a width"),
        ("{message:99999}", "only a width"),
        ("{message.__class__}", "unknown name"),
        ("{message", "expected '}'"),
    ):
        with pytest.raises(ValueError, match="invalid template") as caught:
            template(text, clock)
        assert complaint in str(caught.value)


@given(LINES)
def test_templates_are_harmless(line: Line) -> None:
    text = template("{message} {host} {fields.x} {request}", Clock())(line)
    assert not harmful(text)
    assert text.count("\n") == 1

"""Nothing that comes out of `escape` can do more than be read."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fcgi_core.common.text import SEVERITIES, escape, escape_word, name_of_request, severity_number

ANY_TEXT = st.text(st.characters())  # with lone surrogates


@given(ANY_TEXT)
@example("\x1b]0;title\x07 \x9b31m \r\n \u202e\u2066 \u2028 \x7f \ud800")
def test_escaped_text_is_harmless(text: str) -> None:
    shown = escape(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert escape(shown) == shown


@given(ANY_TEXT)
def test_a_word_is_one_column(text: str) -> None:
    assert len(escape_word(text).split(" ")) == 1


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_harmless_text_stays(text: str) -> None:
    assert escape(text) == text


def test_escapes_can_be_recognised() -> None:
    assert escape("a\x1b[31m\tb\nc\r\x9b\u202e\udc80") == "a\\x1b[31m\\tb\\nc\\r\\x9b\\u202e\\udc80"
    assert escape("C:\\temp \N{ZERO WIDTH JOINER}") == "C:\\temp \N{ZERO WIDTH JOINER}"
    assert escape_word("") == "-"
    assert escape_word("two words") == "two\\x20words"


@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, number) for number, name in enumerate(SEVERITIES)), ("ERROR", 3), (" warn ", 4), ("7", 7)],
)
def test_severity_names(name: str, number: int) -> None:
    assert severity_number(name) == number


@pytest.mark.parametrize("name", ["", "8", "-1", "loud", "٣"])
def test_no_severity(name: str) -> None:
    with pytest.raises(ValueError, match=r"invalid severity .*: use emerg, alert"):
        severity_number(name)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"REQUEST_METHOD": "GET", "REQUEST_URI": "/log-in?user=me&password=hunter2"}, "GET /log-in?***"),
        ({"REQUEST_METHOD": "GET", "REQUEST_URI": "/shop"}, "GET /shop"),
        ({"REQUEST_METHOD": "GET\n", "REQUEST_URI": "/\x1b[0m?"}, "GET\\n /\\x1b[0m"),
        ({}, " "),
    ],
)
def test_the_name_of_a_request_in_the_log(params: dict[str, str], name: str) -> None:
    assert name_of_request(params) == name

"""Lines that wait to be drawn, lines that are kept, and the prompt below them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fcgi_cli.logs.backlog import MOST_WAITING, SAMPLE, Backlog
from fcgi_cli.logs.events import Event, Line, Lost, Note, Skipped
from fcgi_cli.logs.history import History
from fcgi_cli.logs.prompt import Prompt
from fcgi_cli.logs.status import short


def texts(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Line)]


def many(count: int, begin: int = 0) -> Iterator[Line]:
    return (Line(number, 0.0, 6, str(number)) for number in range(begin, begin + count))


def test_lines_of_a_pause_are_never_sampled() -> None:
    backlog = Backlog()
    for line in many(10):
        backlog.add(line)
    backlog.pause_or_resume(0.5)
    assert backlog.take(whole=False) == []
    backlog.pause_or_resume(1.0)
    for line in many(3 * MOST_WAITING, 10):
        backlog.add(line)
    drawn: list[Event] = []
    while backlog.whole:
        drawn += backlog.take(whole=False)
    assert texts(drawn) == [str(number) for number in range(3 * MOST_WAITING + 10)]
    backlog.add(Line(1, 1.1, 6, "later"))
    assert not backlog.whole


def test_a_flood_is_thinned_to_the_worst() -> None:
    backlog = Backlog()
    for line in many(MOST_WAITING + 100):
        if line.number == 17:
            line.severity = 2
        backlog.add(line)
    backlog.add(Lost(5))
    backlog.add(Note("said"))
    events = backlog.take(whole=False)
    assert events[:2] == [Skipped(MOST_WAITING + 100 - SAMPLE), Lost(5)]
    assert texts(events)[0] == "17"
    assert len(texts(events)) == SAMPLE
    assert events[-1] == Note("said")
    assert backlog.skipped == MOST_WAITING + 100 - SAMPLE


def test_history_is_bounded() -> None:
    history = History(most_lines=5, most_characters=1000)
    for line in many(10):
        history.add(line)
    assert len(history) == 5
    found, count = history.matching(lambda line: line.number % 2 == 1, 1)
    assert (texts(list(found)), count) == (["9"], 3)
    history.add(Line(10, 0.0, 6, "x" * 2000))
    assert len(history) == 0
    assert history.latest(lambda line: True) is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9999"), (12_345, "12.3k"), (999_999, "1000k"), (1.5e6, "1.5M"), (2e9, "2G")]
)
def test_short_counts(count: float, text: str) -> None:
    assert short(count) == text


def test_a_prompt_is_harmless() -> None:
    prompt = Prompt("host:", lambda text: f"no {text}", ["\x1b]0;x\x07.example\u202e"])
    prompt.key("\t")
    before, _ = prompt.show(80)
    assert before == "host: \\x1b]0;x\\x07.example\\u202e"
    prompt.key("\n")
    assert prompt.show(80)[1] == "  (no \\x1b]0;x\\x07.example\\u202e)"


def test_a_prompt() -> None:
    answers: list[str] = []
    prompt = Prompt("host:", lambda text: answers.append(text) or "", ["blog", "book", "shop"])  # type: ignore[func-returns-value]
    for key in ("b", "\t", "\t", "\t", "\x7f"):
        assert prompt.key(key)
    assert prompt.show(40) == ("host: blo", "")
    assert prompt.show(8)[0] == "host: …"
    assert not prompt.key("\n")
    assert answers == ["blo"]
    assert not prompt.key("esc")
    assert prompt.key("\x15")
    assert not prompt.key("\x7f")


def test_a_prompt_shows_names_that_are_harmless() -> None:
    """Tab goes through virtual hosts, and applications say what those are called."""
    answers: list[str] = []
    prompt = Prompt("host:", lambda text: answers.append(text) or "no \x1b such", ["\x1b]0;owned\x07\u202e"])  # type: ignore[func-returns-value]
    assert prompt.key("\t")
    assert prompt.show(80) == ("host: \\x1b]0;owned\\x07\\u202e", "")
    assert "\x1b" not in prompt.show(12)[0]
    assert prompt.key("\n")
    assert answers == ["\x1b]0;owned\x07\u202e"]
    assert prompt.show(80)[1] == "  (no \\x1b such)"

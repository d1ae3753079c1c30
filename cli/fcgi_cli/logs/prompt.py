"""A question on the status line, which the user answers with a few keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fcgi_core.common.text import escape

__all__ = ["Prompt"]


class Prompt:
    """Enter passes the text to `answered`, which returns an error or ''. Tab goes through `choices`."""

    def __init__(self, question: str, answered: Callable[[str], str], choices: Sequence[str] = ()) -> None:
        self._question = question
        self._answered = answered
        self._choices = choices
        self._chosen = -1
        self._typed = ""
        self._text = ""
        self._problem = ""

    def key(self, key: str) -> bool:
        """Handle a key; False when the question is answered or cancelled."""
        if key == "esc":
            return False
        if key == "\n":
            self._problem = self._answered(self._text)
            return bool(self._problem)
        self._problem = ""
        if key in ("\x7f", "\b"):
            if not self._text:
                return False  # as less(1) does
            self._text = self._text[:-1]
        elif key == "\x15":  # Ctrl-U
            self._text = ""
        elif key == "\t":
            self._complete()
            return True
        elif key.isprintable():
            self._text += key
        self._typed, self._chosen = self._text, -1
        return True

    def _complete(self) -> None:
        fitting = [choice for choice in self._choices if choice.startswith(self._typed)]
        if fitting:
            self._chosen = (self._chosen + 1) % len(fitting)
            self._text = fitting[self._chosen]

    def show(self, width: int) -> tuple[str, str]:
        """The texts before and after the cursor, in `width` cells; of a long answer, its end."""
        after = f"  ({escape(self._problem)})" if self._problem else ""
        room = max(0, width - len(self._question) - 3)
        text = escape(self._text)  # it may contain a name from the network
        if len(text) > room:
            text = "…" + text[len(text) - room + 1 :]
        return f"{self._question} {text}", after

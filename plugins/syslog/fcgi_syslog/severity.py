"""Finds the severity of a line: by its logging level, or by a guess from the text of a line on STDERR.

The guesses, most certain first: a leading ``<N>`` (sd-daemon(3)), PHP's kinds of error (mapped as PHP's own syslog
output does it, main/main.c `php_error_cb`), a JSON object's level, a Python traceback, a word such as ``error:`` or
``[warning]`` near the beginning.
"""

from __future__ import annotations

import json
import re

from fcgi_core.plugin import severity_number

__all__ = ["ALERT", "CRIT", "DEBUG", "EMERG", "ERR", "INFO", "NOTICE", "WARNING", "guess", "of_level"]

EMERG, ALERT, CRIT, ERR, WARNING, NOTICE, INFO, DEBUG = range(8)

_PHP = {
    "fatal error": ERR,
    "recoverable fatal error": ERR,
    "parse error": ERR,
    "core error": ERR,
    "compile error": ERR,
    "warning": WARNING,
    "core warning": WARNING,
    "compile warning": WARNING,
    "notice": NOTICE,
    "strict standards": INFO,
    "deprecated": INFO,
}
_PHP_LINE = re.compile(r"(?:PHP message: )?PHP ([A-Z][a-z]+(?: [a-z]+){0,2}):")
_PREFIX = re.compile(r"<([0-7])>")
_TRACEBACK = re.compile(r"(?:\s*\+ Exception Group )?Traceback \(most recent call last\):")
_JSON_KEYS = ("level", "severity", "levelname", "log.level", "lvl")
_JSON_LONGEST = 64 << 10
"""Characters of the longest JSON text that is searched for a level."""
_LOOK_AT = 160
"""Characters at a line's beginning in which a word is searched: enough for a time, a host and a logger's name."""
_NAMES = "emerg|emergency|panic|alert|crit|critical|fatal|err|error|warn|warning|notice|info|debug|trace"
_WORD = re.compile(
    rf"(?:^|[\s\[(<|:])(?:(?i:({_NAMES}))(?::|\]|\)|>|\s*\|)|({_NAMES.upper()})\b)"  # "error:", "[warn]", "ERROR"
    r"|\b[A-Z]\w*(Error|Exception|Warning):"  # "ValueError: …", "x.py:3: DeprecationWarning: …"
)
_LEVELS = {"Error": ERR, "Exception": ERR, "Warning": WARNING}


def of_level(level: int) -> int:
    """Return the severity of a `logging` level. A level between two named ones counts as the lower; 25 is "notice"."""
    if level >= 50:
        return CRIT
    if level >= 40:
        return ERR
    if level >= 30:
        return WARNING
    if level >= 25:
        return NOTICE
    return INFO if level >= 20 else DEBUG


def guess(text: str) -> tuple[int | None, str]:
    """Return the severity, None if the text does not show one, and the text without a leading ``<N>``."""
    if prefix := _PREFIX.match(text):
        return int(prefix[1]), text[prefix.end() :]
    if php := _PHP_LINE.match(text):
        return _PHP.get(php[1].lower(), ERR), text
    if text.startswith("{") and (severity := _of_json(text)) is not None:
        return severity, text
    if _TRACEBACK.match(text):
        return ERR, text
    if word := _WORD.search(text, 0, _LOOK_AT):
        name = word[1] or word[2]
        return (severity_number(name) if name else _LEVELS[word[3]]), text
    return None, text


def _of_json(text: str) -> int | None:
    if len(text) > _JSON_LONGEST:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    for key in _JSON_KEYS:
        level = value.get(key)
        if isinstance(level, str):
            try:
                return severity_number(level)
            except ValueError:
                continue
        if isinstance(level, int):
            return level if 0 <= level <= 7 else of_level(level)  # syslog's numbers; or logging's, pino's, bunyan's
    return None

"""Guesses of a line's severity."""

import logging

import pytest
from fcgi_syslog.severity import CRIT, DEBUG, EMERG, ERR, INFO, NOTICE, WARNING, guess, of_level


@pytest.mark.parametrize(
    ("level", "severity"),
    [
        (logging.CRITICAL, CRIT),
        (logging.ERROR, ERR),
        (logging.WARNING, WARNING),
        (25, NOTICE),
        (logging.INFO, INFO),
        (logging.DEBUG, DEBUG),
        (0, DEBUG),
        (1000, CRIT),
        (35, WARNING),
    ],
)
def test_levels(level: int, severity: int) -> None:
    assert of_level(level) == severity


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("PHP Fatal error:  Uncaught Exception: x in /a.php:3", ERR),
        ("PHP message: PHP Warning:  Undefined variable $a", WARNING),
        ("PHP Notice:  x", NOTICE),
        ("PHP Deprecated:  x", INFO),
        ("PHP Parse error:  syntax error", ERR),
        ("PHP Recoverable fatal error:  x", ERR),
        ("Traceback (most recent call last):", ERR),
        ("  + Exception Group Traceback (most recent call last):", ERR),
        ("error: cannot open", ERR),
        ("2026-07-01 12:00:00,123 ERROR shop.cart no item", ERR),
        ("[error] 7#0: *1 open() failed", ERR),
        ("Warning: low on memory", WARNING),
        ("/app/x.py:3: DeprecationWarning: use y", WARNING),
        ("ValueError: no", ERR),
        ("django.db.utils.OperationalError: gone", ERR),
        ("DEBUG:root:x", DEBUG),
        ("level | fatal | x", CRIT),
        ("panic: runtime error", EMERG),
        ('{"level": "warn", "msg": "x"}', WARNING),
        ('{"level": 50, "msg": "pino"}', CRIT),
        ('{"severity": 3}', ERR),
        ('{"level": "loud", "severity": "debug"}', DEBUG),
    ],
)
def test_telling_lines(text: str, severity: int) -> None:
    assert guess(text) == (severity, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "no errors",
        "errors: 0",
        "mirror: up",
        "information desk",
        '{"level": "loud"}',
        '{"msg": [',
        "{" * 1000,
        "[" * 200_000,
        '{"a":' * 9000,
        "x" * 200 + " error: too late",
        "an error occurred",
        '{"level": null}',
    ],
)
def test_lines_without_a_severity(text: str) -> None:
    assert guess(text) == (None, text)


def test_a_prefix_is_removed() -> None:
    assert guess("<3>disk full") == (ERR, "disk full")
    assert guess("<8>x") == (None, "<8>x")

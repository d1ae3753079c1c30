"""Which lines are shown."""

from typing import Any

import pytest
from fcgi_cli.logs_filter import Filter
from fcgi_cli.logs_source import Line

LINE = Line(1, 0.0, 4, "No item\nsecond line", "Shop.example", "cart", request="abcdef")


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, True),
        ({"level": 4}, True),
        ({"level": 3}, False),
        ({"server_names": ["shop.example"]}, True),
        ({"server_names": ["other", "*.example"]}, True),
        ({"server_names": ["shop"]}, False),
        ({"server_names": ["shop?example"]}, True),
        ({"applications": ["c*"]}, True),
        ({"applications": ["art"]}, False),
        ({"requests": ["xyz", "abc"]}, True),
        ({"requests": ["bcd"]}, False),
        ({"patterns": ["item"]}, True),
        ({"patterns": ["^second"]}, False),
        ({"patterns": ["x", "second"]}, True),
        ({"patterns": ["ITEM"]}, False),
        ({"patterns": ["ITEM"], "ignore_case": True}, True),
        ({"patterns": ["item"], "invert": True}, False),
        ({"patterns": ["x"], "invert": True}, True),
        ({"invert": True}, True),
        ({"patterns": ["item"], "level": 3}, False),
    ],
)
def test_conditions(options: dict[str, Any], taken: bool) -> None:
    assert Filter(**options).takes(LINE) is taken

"""Which lines are shown."""

import re
from typing import Any

import pytest
from fcgi_cli.logs.events import Line
from fcgi_cli.logs.filter import Filter, Wanted
from fcgi_cli.logs.where import Comparison

LINE = Line(
    1,
    0.0,
    4,
    "No item\nsecond line",
    "Shop.example",
    "cart",
    request="abcdef",
    fields={"status": "503", "path": "/cart"},
)


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, True),
        ({"level": 4}, True),
        ({"level": 3}, False),
        ({"server_names": ("shop.example",)}, True),
        (
            {
                "server_names": (
                    "other",
                    "*.example",
                )
            },
            True,
        ),
        ({"server_names": ("shop",)}, False),
        ({"server_names": ("shop?example",)}, True),
        ({"applications": ("c*",)}, True),
        ({"applications": ("art",)}, False),
        (
            {
                "requests": (
                    "xyz",
                    "abc",
                )
            },
            True,
        ),
        ({"requests": ("bcd",)}, False),
        ({"patterns": ("item",)}, True),
        ({"patterns": ("^second",)}, False),
        (
            {
                "patterns": (
                    "x",
                    "second",
                )
            },
            True,
        ),
        ({"patterns": ("ITEM",)}, False),
        ({"patterns": ("ITEM",), "ignore_case": True}, True),
        ({"patterns": ("item",), "invert": True}, False),
        ({"patterns": ("x",), "invert": True}, True),
        ({"invert": True}, True),
        ({"patterns": ("item",), "level": 3}, False),
        ({"since": 0.0, "until": 0.0}, True),
        ({"since": 1.0}, False),
        ({"until": -1.0}, False),
        ({"where": (Comparison.parse("status>=500"), Comparison.parse("path=/cart"))}, True),
        ({"where": (Comparison.parse("status>=500"), Comparison.parse("path=/"))}, False),
    ],
)
def test_conditions(options: dict[str, Any], taken: bool) -> None:
    assert Filter(Wanted(**options)).takes(LINE) is taken


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("status>=500", True),
        ("status >= 503", True),
        ("status<60", False),  # as numbers
        ("status!=503", False),
        ("path<=/d", True),
        ("path=~^/c", True),
        ("path!~^/c", False),
        ("host=Shop.example", True),
        ("level=warning", True),
        ("level<=err", False),
        ("request=abcdef", True),
        ("text=~second", True),
        ("nowhere=", False),
        ("nowhere!=1", True),
        ("nowhere!~1", True),
        ("nowhere=~", False),
        ("path<1", True),  # not both numbers: as text
    ],
)
def test_comparisons(text: str, holds: bool) -> None:
    assert Comparison.parse(text).holds(LINE) is holds


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("status", "'status' is no comparison: NAME, one of = !="),
        (">=500", "is no comparison"),
        ("path=~(", "'(' is no regular expression"),
        ("level=loud", "invalid severity 'loud'"),
    ],
)
def test_no_comparison(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Comparison.parse(text)

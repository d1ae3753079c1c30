"""docs/limits.md: each figure is the code's own, and each test that it names is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fcgi_core.hosting.discovery import installed_plugins
from fcgi_core.process.config import AppConfig, Config, SctpConfig, WebConfig

ROOT = Path(__file__).resolve().parent.parent
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": 1}
SECTIONS: dict[str, Any] = {"web": WebConfig, "app": AppConfig, "sctp": SctpConfig, "": Config}


class Row(NamedTuple):
    what: str
    bound: str
    where: str
    beyond: str
    test: str


def rows() -> list[Row]:
    """The rows of the tables that say which test holds them."""
    found = []
    columns = 0
    for line in (ROOT / "docs" / "limits.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[-1] == "held to by":
            columns = len(cells)
        elif not cells:
            columns = 0
        elif columns and not set(line) <= set("|- "):
            assert len(cells) == columns == 5, line
            found.append(Row(*(cell.strip("`") for cell in cells)))
    return found


def figure(text: str) -> float | bool | None:
    """The value of ``1 MiB``, ``4,096`` or ``10 s``; None for a bound that is no figure."""
    if text in ("true", "false"):
        return text == "true"
    match = re.fullmatch(r"([0-9,.]+)(?: (\w+))?", text)
    return float(match[1].replace(",", "")) * UNITS[match[2] or ""] if match else None


def value(where: str) -> Any:
    """What a constant, an attribute of a class, or the default of a key is."""
    section, _, key = where.partition(".")
    if section in SECTIONS:
        return SECTIONS[section].model_fields[key].default
    if section == "plugins":
        name, _, key = key.partition(".")
        return installed_plugins()[name].Options.model_fields[key].default  # type: ignore[union-attr]
    parts = where.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:-1]:
            found = getattr(found, name)()
        return getattr(found, parts[-1])
    raise AssertionError(where)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.what)
def test_a_row(row: Row) -> None:
    told = figure(row.bound)
    if row.where:
        assert told is not None, f"{row.bound!r} is no figure"
        assert told == value(row.where)
    else:
        assert told is None, f"{row.bound!r} needs a constant or a key"
    assert row.beyond, "what happens beyond it?"
    file, _, name = row.test.partition("::")
    assert re.search(rf"def {name}\b", (ROOT / file).read_text()), row.test


def test_there_are_rows_for_every_side() -> None:
    assert len(rows()) > 70
    assert len({row.what + row.where for row in rows()}) == len(rows())


@pytest.mark.parametrize(
    ("text", "told"), [("1 MiB", 1 << 20), ("4,096", 4096), ("10 s", 10), ("true", True), ("none", None)]
)
def test_figures_are_read(text: str, told: object) -> None:
    assert figure(text) == told

"""docs/performance.md shows what was measured: its tables are those that script/bench writes from docs/measurements."""

from __future__ import annotations

import pytest

from bench import document

PAGE = (document.DOCS / "performance.md").read_text()
MARKED = [(found[2], found[0]) for found in document.MARKED.finditer(PAGE)]


def test_every_table_has_its_place() -> None:
    assert sorted(name for name, _ in MARKED) == sorted([*document.TABLES, "conditions"])


@pytest.mark.parametrize(("name", "shown"), MARKED)
def test_no_figure_was_put_in_by_hand(name: str, shown: str) -> None:
    assert shown == f"<!-- table {name} -->\n{document.table(name)}<!-- end -->"

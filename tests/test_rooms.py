"""The house: which room may import which, so that data flows one way and no two modules need each other.

    process -> web, app -> hosting -> plugin -> protocol -> sctp -> common

A module imports from its own room and from rooms to the right of it. docs/house.md says what each room is for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "fcgi_core": ROOT / "fcgi_core",
    "fcgi_syslog": ROOT / "plugins" / "syslog" / "fcgi_syslog",
    "fcgi_metrics": ROOT / "plugins" / "metrics" / "fcgi_metrics",
    "fcgi_cli": ROOT / "cli" / "fcgi_cli",
}
FLOORS: dict[str, int] = {
    "common": 0,
    "sctp": 1,
    "protocol": 2,
    "plugin": 3,
    "hosting": 4,
    "web": 5,
    "app": 5,
    "process": 6,
}
"""The rooms of `fcgi_core`, from the ground up. Rooms on one floor do not import each other."""
TEST_KIT = {"testing", "testing_request"}
"""The test kit uses every room below `web` and `app`; nothing in the rooms uses it."""
OUTSIDE = {"errors", *TEST_KIT}
"""The modules of `fcgi_core` that stand outside of all rooms."""


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """The modules of the project that a module imports, anywhere in it, each with its line."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in MODULES:
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found = f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
                if found in MODULES and found != name:
                    yield found, node.lineno


GRAPH = {name: dict(imports(name, path)) for name, path in MODULES.items()}


def room(name: str) -> str:
    """The room of a module of `fcgi_core`, '' if it stands outside of all rooms."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else ""


def test_every_room_has_a_floor() -> None:
    folders = {path.name for path in PACKAGES["fcgi_core"].iterdir() if (path / "__init__.py").exists()}
    assert folders == set(FLOORS)
    assert {path.stem for path in PACKAGES["fcgi_core"].glob("*.py")} == {"__init__", *OUTSIDE}


@pytest.mark.parametrize("name", sorted(TEST_KIT))
def test_the_test_kit_needs_neither_side(name: str) -> None:
    """The kit joins two connections, so that the author of a plugin needs no web server and no application."""
    rooms = {room(target) for target in GRAPH[f"fcgi_core.{name}"]}
    assert not rooms & {"web", "app", "process"}, f"fcgi_core/{name}.py imports from {sorted(rooms)}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name: str) -> None:
    package = name.partition(".")[0]
    for target, line in GRAPH[name].items():
        where = f"{MODULES[name].relative_to(ROOT)}:{line} imports {target}"
        if package == "fcgi_core":
            assert target.startswith("fcgi_core"), f"{where}: the core knows neither plugins nor the command line"
            here, there = room(name), room(target)
            assert there or not here or target.split(".")[1:2] == ["errors"] or target == "fcgi_core", (
                f"{where}: only the test kit stands outside of the rooms, and no room uses it"
            )
            if here and there and here != there:
                assert FLOORS[there] < FLOORS[here], (
                    f"{where}: {here} is on floor {FLOORS[here]} and may import from floors below it, not from {there}"
                    f" on floor {FLOORS[there]}"
                )
        elif package in ("fcgi_syslog", "fcgi_metrics"):
            assert target.startswith((package, "fcgi_core.plugin")), f"{where}: a plugin needs fcgi_core.plugin alone"


def test_no_circle() -> None:
    """No module needs, by whatever way, a module that needs it: each can be read without the others."""
    done: set[str] = set()
    way: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        assert name not in way, "a circle: " + " -> ".join([*way[way.index(name) :], name])
        way.append(name)
        for target in GRAPH[name]:
            visit(target)
        way.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


def test_the_protocol_does_no_input_or_output() -> None:
    strange = {"asyncio", "socket", "time", "threading", "select", "selectors", "os"}
    for name, path in MODULES.items():
        if room(name) == "protocol":
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                assert not strange & {one.partition(".")[0] for one in names}, f"{name} imports {names}"


def test_the_protocol_can_be_read_in_one_sitting() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items() if room(name) == "protocol"}
    assert sum(lines.values()) <= 3000, f"{sum(lines.values())} lines: {lines}"

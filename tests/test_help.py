"""`help(fcgi_core)`, compiled or not: each name that is handed on says what it is and how it is called."""

from __future__ import annotations

import inspect

import pytest

import fcgi_core

NAMES = [name for name in fcgi_core.__all__ if name != "events"]
CLASSES = [one for name in NAMES if inspect.isclass(one := getattr(fcgi_core, name)) and not issubclass(one, tuple)]
"""But for named tuples: mypyc keeps no docstrings of their methods."""


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_described_and_has_a_signature(name: str) -> None:
    value = getattr(fcgi_core, name)
    assert inspect.getdoc(value)
    assert inspect.signature(value)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_method_is_described_and_has_a_signature(kind: type) -> None:
    for name, member in inspect.getmembers(kind):
        if name.startswith("_") or name not in {known for one in kind.__mro__[:-1] for known in vars(one)}:
            continue
        if inspect.isroutine(member):
            assert inspect.getdoc(member), f"{kind.__name__}.{name}"
            assert inspect.signature(member), f"{kind.__name__}.{name}"
        elif isinstance(member, property):
            assert inspect.getdoc(member), f"{kind.__name__}.{name}"

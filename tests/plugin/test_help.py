"""`help(fcgi_core.plugin)` is the reference of a plugin author: it names and describes everything."""

from __future__ import annotations

import inspect

import pytest

import fcgi_core.plugin
from fcgi_core.plugin import views

CLASSES = [one for name in fcgi_core.plugin.__all__ if inspect.isclass(one := getattr(fcgi_core.plugin, name))]


@pytest.mark.parametrize("name", fcgi_core.plugin.__all__)
def test_each_name_is_described(name: str) -> None:
    value = getattr(fcgi_core.plugin, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value)
    else:
        assert f"    {name} " in str(fcgi_core.plugin.__doc__)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_method_is_described(kind: type) -> None:
    for name, member in vars(kind).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{kind.__name__}.{name}"


@pytest.mark.parametrize("kind", [views.AssociationInfo, views.Outcome, views.OutputFigures, views.TransportFigures])
def test_each_field_is_described(kind: type) -> None:
    """Python shows no docstrings of fields, so the class has them."""
    missing = [name for name in kind.__annotations__ if name not in str(kind.__doc__)]
    assert missing == [name for name in ("name",) if name in missing], "a name needs no description"

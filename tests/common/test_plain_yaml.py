"""YAML within bounds: what is taken, what is refused, and that no text costs more than its length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.common import plain_yaml
from fcgi_core.common.plain_yaml import MAX_DEPTH, MAX_SIZE, MAX_TOTAL, Budget, YamlError, read_yaml


@pytest.fixture(autouse=True, params=["libyaml", "python"], scope="module")
def _loader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both parsers that PyYAML has."""
    if request.param == "libyaml" and not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_yaml, "_LOADER", yaml.CSafeLoader if request.param == "libyaml" else yaml.SafeLoader)
        yield


def read(text: str) -> Any:
    problems: list[str] = []
    content = read_yaml(text, problems)
    assert problems == []
    return content


def problems(text: str) -> list[str]:
    found: list[str] = []
    read_yaml(text, found)
    return found


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("# nothing but a comment\n", None),
        ("---\na: 1\n...\n", {"a": 1}),
        (
            "a: [1, 2.5, yes, ~, text, '2026-01-01', \"0660\"]",
            {"a": [1, 2.5, True, None, "text", "2026-01-01", "0660"]},
        ),
        ("a: 0x10\nb: 1_000\nc: -0\nd: 0", {"a": 16, "b": 1000, "c": 0, "d": 0}),
        ("a: &x {b: [1]}\nc: *x", {"a": {"b": [1]}, "c": {"b": [1]}}),
        ("a: &x {b: 1, c: 1}\nd: {<<: *x, c: 2}", {"a": {"b": 1, "c": 1}, "d": {"b": 1, "c": 2}}),
        (
            "a: &x {b: 1}\nc: &y {b: 2, d: 2}\ne: {<<: [*x, *y]}",
            {"a": {"b": 1}, "c": {"b": 2, "d": 2}, "e": {"b": 1, "d": 2}},
        ),
        ("'no': 1\n\"123\": 2\n? on.example\n: 3", {"no": 1, "123": 2, "on.example": 3}),
        ("&a name: *a", {"name": "name"}),
        ("a: !!str 12", {"a": "12"}),
        ("a: ! 12", {"a": "12"}),
        ("a: =\nb: '<<'\n'<<': c", {"a": "=", "b": "<<", "<<": "c"}),
        ("text alone", "text alone"),
    ],
)
def test_accepted_yaml(text: str, content: object) -> None:
    assert read(text) == content


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", ["a: stands twice, in lines 1 and 3; keep one"]),
        ("w: {a: 1, 'a': 2}", ["w.a: stands twice, in lines 1 and 1; keep one"]),
        ("w:\n- {b: 1,\n   b: 2}", ["w.0.b: stands twice, in lines 2 and 3; keep one"]),
        (
            "a: 1\na: 1\na: 1",
            ["a: stands twice, in lines 1 and 2; keep one", "a: stands twice, in lines 1 and 3; keep one"],
        ),
        ("no: 1", ["the name no in line 1 is false to YAML; put it in quotes"]),
        ("w:\n  On: 1", ["w: the name On in line 2 is true to YAML; put it in quotes"]),
        ("w: {123: a}", ["w: the name 123 in line 1 is a number to YAML; put it in quotes"]),
        ("w: {1.5: a}", ["w: the name 1.5 in line 1 is a number to YAML; put it in quotes"]),
        ("w: {~: a}", ["w: the name ~ in line 1 is nothing to YAML; put it in quotes"]),
        ("w: {2026-01-31: a}", ["w: the name 2026-01-31 in line 1 is a date to YAML; put it in quotes"]),
        ("w: {10:30: a}", ["w: the name 10:30 in line 1 is a number in base 60 to YAML; put it in quotes"]),
        ("a: 2026-01-31", ["a: is 2026-01-31, which YAML reads as a date; put it in quotes"]),
        ("a: 2026-02-30", ["a: is 2026-02-30, which YAML reads as a date; put it in quotes"]),
        ("a: 0660", ["a: is 0660, which YAML reads as an octal number; put it in quotes"]),
        ("a: 22:30", ["a: is 22:30, which YAML reads as a number in base 60; put it in quotes"]),
        ("a: 0x_", ["a: is 0x_, which YAML reads as a number, but it is not one; put it in quotes"]),
        ("a: [b, 0b_]", ["a.1: is 0b_, which YAML reads as a number, but it is not one; put it in quotes"]),
    ],
)
def test_readable_yaml_that_is_not_allowed_is_reported(text: str, told: list[str]) -> None:
    assert problems(text) == told


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("a: [", "is not YAML: line "),
        ("a: b: c", "is not YAML: line 1, column 5: "),
        ("a: 1\n---\nb: 2", "line 2: another document"),
        ("a: !!int ten", "line 1: the tag 'tag:yaml.org,2002:int' is not allowed"),
        ("!!python/object/apply:os.system [true]", "line 1: the tag "),
        ("a: !!timestamp x", "line 1: the tag "),
        ("!!int 1: a", "line 1: the tag "),
        ("a: !!set {b}", "line 1: the tag "),
        ("a: *b", "line 1: *b is not defined above"),
        ("web: &a\n  listen: *a", "line 2: *a would contain itself"),
        ("a: &a [b, {c: *a}]", "line 1: *a would contain itself"),
        ("[1]: a", "line 1: expected a name, found a list or a mapping"),
        ("{a: &x [1], *x : 2}", "line 1: expected a name, but *x is not a text"),
        ("a: {<<: 3}", "line 1: << needs a mapping"),
        ("a: {<<: [{b: 1}, 3]}", "line 1: << needs a mapping"),
        ("a: \x00", "is not YAML: "),
        ("a: \x1b", "is not YAML: "),
        ("a: \ud800", "is not YAML: "),
        ("x" * (MAX_SIZE + 1), "holds more than 1,048,576 characters"),
    ],
)
def test_text_that_is_not_yaml_is_refused(text: str, fragment: str) -> None:
    with pytest.raises(YamlError) as caught:
        read(text)
    assert str(caught.value).startswith(fragment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bracket", ["[", "{a: ", "- ", "? ", "[{a: "])
def test_the_depth_is_bounded(bracket: str) -> None:
    with pytest.raises(YamlError, match=r"more than 32 lists|exceeded maximum|expected a name"):
        read(bracket * 100_000)
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(YamlError, match="more than 32 lists and mappings within each other"):
        read("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_the_depth_that_aliases_make_is_bounded() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{number}: &a{number} [*a{number - 1}]" for number in range(1, 100)]
    with pytest.raises(YamlError, match="more than 32"):
        read("\n".join(lines))


@pytest.mark.parametrize("grain", ["x", "[]", "{}", "x" * 100_000], ids=["text", "list", "mapping", "long"])
def test_repeated_aliases_count_as_if_written_out(grain: str) -> None:
    lines = [f"a0: &a0 {grain}"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]" for number in range(1, 12)]
    with pytest.raises(YamlError, match="holds more than"):
        read("\n".join(lines))


def test_a_budget_is_shared_by_several_texts() -> None:
    budget = Budget(100)
    read_yaml("a: " + "x" * 50, [], budget)
    with pytest.raises(YamlError, match=f"{MAX_TOTAL:,}"):
        read_yaml("a: " + "x" * 50, [], budget)


_scalars = st.none() | st.booleans() | st.integers(-9, 9**30) | st.floats(allow_nan=False) | st.text()
_content = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=20
)


@given(_content)
def test_dumped_yaml_is_read_again(content: Any) -> None:
    assert read(yaml.safe_dump(content)) == content


@given(st.text(alphabet="ab:-?*&!|>[]{},#%'\" \n\t0123456789.<~", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    told: list[str] = []
    try:
        read_yaml(text, told)
    except YamlError as error:
        told.append(str(error))
    assert not any("\n" in one for one in told)

"""The problems of a model's input, as sentences for people: where, the value, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

__all__ = ["model_problems", "meant", "shown", "written_path"]

LONGEST = 100
"""Characters of a value that a sentence shows."""

_EXPECTED = {
    "bool_parsing": "true or false was expected",
    "bool_type": "true or false was expected",
    "dict_type": "names with values were expected",
    "finite_number": "a finite number was expected",
    "float_parsing": "a number was expected",
    "float_type": "a number was expected",
    "int_from_float": "a whole number was expected",
    "int_parsing": "a whole number was expected",
    "int_parsing_size": "a number that is not so large was expected",
    "int_type": "a whole number was expected",
    "list_type": "a list was expected",
    "model_type": "names with values were expected",
    "string_type": "a text was expected",
}


def model_problems(
    error: ValidationError, model: type[BaseModel], above: tuple[str, ...] = (), also: tuple[str, ...] = ()
) -> list[str]:
    """Returns a sentence for each problem of the input. `above` is the path to the input; `also` are names that are
    allowed there although the model does not have them."""
    return [_sentence(problem, model, above, also) for problem in error.errors(include_url=False)]


def shown(value: object) -> str:
    """Returns a value as YAML writes it, cut if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def meant(given: object, names: Iterable[str]) -> str:
    """Returns ``; did you mean NAME?`` if one of `names` is like `given`, else ''."""
    close = get_close_matches(str(given)[:LONGEST], list(names), 1)
    return f"; did you mean {close[0]}?" if close else ""


def written_path(path: Iterable[object]) -> str:
    """Returns names and numbers with dots between them; an empty name as two quotes."""
    return ".".join(str(part)[:LONGEST] or "''" for part in path)


def _sentence(problem: Any, model: type[BaseModel], above: tuple[str, ...], also: tuple[str, ...]) -> str:
    where = problem["loc"]
    path = written_path((*above, *where))
    kind, given = problem["type"], problem["input"]
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "extra_forbidden":
        names = [*_names(_models_at(model, where[:-1])), *(also if len(where) == 1 else ())]
        return f"{path}: no such name here{meant(where[-1], names)}; names are: {', '.join(names)}"
    right = _right(kind, problem, model)
    return f"{path}: {right}" if isinstance(given, dict) else f"{path}: is {shown(given)}; {right}"


def _right(kind: str, problem: Any, model: type[BaseModel]) -> str:
    """Returns what would be right."""
    given, context = problem["input"], problem.get("ctx", {})
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "a text was expected: put it in quotes"
    if kind == "literal_error":
        choices = [text.strip("'") for text in context["expected"].replace(" or ", ", ").split(", ")]
        return f"{context['expected']} was expected{meant(given, choices)}"
    if kind == "string_pattern_mismatch":
        examples = _examples(model, problem["loc"])
        return f"write it as in {examples}" if examples else f"it does not match {context['pattern']}"
    for bound, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if bound in context:
            return f"{words} {str(context[bound]).removesuffix('.0')} was expected"
    if kind == "too_short" and context.get("min_length") == 1:
        return "at least one was expected"
    message = problem["msg"].removeprefix("Value error, ")
    return _EXPECTED.get(kind) or f"{message[:1].lower()}{message[1:]}"


def _models_at(model: type[BaseModel], where: Iterable[object]) -> list[type[BaseModel]]:
    """Returns the models that are possible at a place in `model`'s input."""
    models = [model]
    for part in where:
        models = [one for field in _fields(models, part) for one in _models_in(field.annotation)] or models
    return models


def _examples(model: type[BaseModel], where: tuple[object, ...]) -> str:
    fields = _fields(_models_at(model, where[:-1]), where[-1])
    return ", ".join(shown(example) for field in fields for example in field.examples or ())


def _fields(models: Iterable[type[BaseModel]], name: object) -> list[FieldInfo]:
    return [
        field
        for model in models
        for known, field in model.model_fields.items()
        if name in (known, field.alias) and name
    ]


def _names(models: Iterable[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(field.alias or name for model in models for name, field in model.model_fields.items()))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]

"""Kinds of values in the configuration, and what is said of a value that is of another kind.

The types are pydantic's; the words are ours: the key, its value, what is allowed.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union

import annotated_types
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from centernet.errors import InputError, propose

MISSING = "???"
"""How a configuration marks a value that has to be given."""


def _ordered(pair: list[float]) -> list[float]:
    if pair[0] > pair[1]:
        raise ValueError
    return pair


def _some_time(given: str) -> str:
    if not given.strip("0:"):
        raise ValueError
    return given


# Kinds of values. A text in an annotation says what is allowed where the type alone does not.

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Within1 = Annotated[float, Field(gt=0, lt=1)]
Bits = Annotated[int, Field(ge=8, le=16)]
Auto = Literal["auto"]
Text = Annotated[str, "text"]
Place = Annotated[str, "a path (a number as ./2017)"]
Size = Annotated[list[Count], Field(min_length=2, max_length=2), "[height, width] in pixels"]
Range = Annotated[
    list[Positive],
    Field(min_length=2, max_length=2),
    AfterValidator(_ordered),
    "a range of numbers above 0, such as [0.5, 2]",
]
Time = Annotated[
    str,
    Field(pattern=r"^\d+:\d+:\d+:\d+$"),
    AfterValidator(_some_time),
    "a time as days:hours:minutes:seconds, such as 00:00:20:00 for twenty minutes",
]
Mode = Literal["fit", "keep", "stretch", "width"]
Loss = Literal["l1", "smooth_l1"]
Options = Annotated[dict[str, Any], "options {KEY: VALUE, ...}"]
Names = Annotated[list[str | None], "a list of names"]
# Batches: so many of them, or this share of all.
Some = Annotated[Whole | Share, "a number of batches, or a fraction of them from 0.0 to 1.0"]


class Node(BaseModel):
    """The keys of one node; others are mistakes."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Open(BaseModel):
    """The keys of a node that may have others, which somebody else checks."""

    model_config = ConfigDict(strict=True, extra="allow")


# What is wrong, in words.


def check_node(model: type[BaseModel], node: Mapping[str, Any], path: tuple[str, ...], known: Iterable[str]) -> None:
    """Raise ``InputError`` for the first mistake in a node at this path. ``known``: all keys, for proposals."""
    try:
        model.model_validate(node)
    except ValidationError as failure:
        error = failure.errors(include_url=False, include_context=False)[0]
        raise InputError(_sentence(model, node, path, error, known)) from None


def _sentence(
    model: type[BaseModel], node: Mapping[str, Any], path: tuple[str, ...], error: Any, known: Iterable[str]
) -> str:
    """What is wrong and what to do, for an error of pydantic."""
    kind: Any = model
    # As far as keys lead; below a value, pydantic names the members of its type.
    for step in error["loc"]:
        fields = fields_of(kind)
        if step not in fields and error["type"] != "extra_forbidden":
            break
        path = (*path, str(step))
        if step not in fields:
            break
        kind, node = fields[step], node.get(step, MISSING) if isinstance(node, Mapping) else node
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        if len(path) > 1:  # what this node can have, rather than what it happens to have
            known = [".".join((*path[:-1], name)) for name in fields_of(kind)]
        return f"{key} is unknown; {propose(key, known)}"
    if node == MISSING:
        return f"{key} is missing; set {key}=VALUE"
    return f"{key}={show(node)} is not possible; give {describe(kind)}"


def fields_of(kind: Any) -> dict[str, Any]:
    """The kinds of the keys below a key of this kind, if there are any."""
    for model in (kind, *typing.get_args(kind)):
        if isinstance(model, type) and issubclass(model, BaseModel):
            hints = typing.get_type_hints(model, include_extras=True)
            return {field.alias or name: hints[name] for name, field in model.model_fields.items()}
    return {}


def show(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(show(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# What is allowed, in words.


def describe(kind: Any) -> str:
    """What a kind of value allows."""
    return _listed(list(dict.fromkeys(words_of(kind))))


def _listed(words: list[str]) -> str:
    if len(words) == 1:
        return words[0]
    return ", or ".join(words) if any(" " in word for word in words) else f"{', '.join(words[:-1])} or {words[-1]}"


def words_of(kind: Any) -> list[str]:
    origin = typing.get_origin(kind)
    if origin is Annotated:
        inner, *notes = typing.get_args(kind)
        if said := [note for note in notes if isinstance(note, str)]:
            return [said[0]]
        bounds = [one for note in notes for one in (note.metadata if hasattr(note, "metadata") else [note])]
        return [_number(inner, bounds)] if inner in (int, float) else words_of(inner)
    if origin in (Union, types.UnionType):
        # null last
        return [word for part in sorted(typing.get_args(kind), key=_is_none) for word in words_of(part)]
    if origin is Literal:
        return [show(value) for value in typing.get_args(kind)]
    if origin is list:
        return [f"a list of {_listed(words_of(typing.get_args(kind)[0]))}"]
    if _is_none(kind):
        return ["null"]
    simple = {bool: ["true", "false"], str: ["text"], int: ["a whole number"], float: ["a number"]}
    return simple.get(kind, ["options {KEY: VALUE, ...}"])


def _is_none(kind: Any) -> bool:
    return kind is type(None)


def _number(kind: type, bounds: Iterable[Any]) -> str:
    """A range of numbers in words."""
    least = above = -math.inf
    most = below = math.inf
    for bound in bounds:
        least = bound.ge if isinstance(bound, annotated_types.Ge) else least
        above = bound.gt if isinstance(bound, annotated_types.Gt) else above
        most = bound.le if isinstance(bound, annotated_types.Le) else most
        below = bound.lt if isinstance(bound, annotated_types.Lt) else below
    name = "a whole number" if kind is int else "a number"
    if math.isfinite(least) and math.isfinite(most):
        return f"{name} from {least:g} to {most:g}"
    words = [
        f"{word} {bound:g}"
        for word, bound in (("of at least", least), ("above", above), ("of at most", most), ("below", below))
        if math.isfinite(bound)
    ]
    return " ".join([name, " and ".join(words)]).strip()

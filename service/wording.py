"""Describes in plain words what a value may be, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

_KINDS = {
    "missing": "is missing",
    "extra_forbidden": "is unknown here",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "json_invalid": "is not valid JSON: {error}",
    "union_tag_not_found": "has no kind",
    "union_tag_invalid": "must be one of the kinds {expected_tags}",
    "string_too_short": "must be {min_length} or more characters long",
    "string_too_long": "must be {max_length} or fewer characters long",
    "string_unicode": "must be text",
    "path_type": "must be a path",
    "none_required": "must be empty",
    "string_pattern_mismatch": "must match {pattern}",
}

_SIMPLE: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


_SHOWN_CHARACTERS = 100


def shortened(name: bytes | str) -> str:
    """Truncate a name chosen by the client, so that a message does not echo megabytes."""
    shown = name[: _SHOWN_CHARACTERS + 1]
    text = shown.decode("utf-8", "replace") if isinstance(shown, bytes) else shown
    return text if len(name) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def what_is_wrong(item: Mapping[str, Any]) -> str:
    """Return a pydantic error in a few plain words, such as "must be at least 1"."""
    words = _KINDS.get(item["type"])
    if words is not None:
        return words.format(**item.get("ctx", {}))
    return str(item["msg"]).removeprefix("Value error, ").replace("Input should", "must")


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of a pydantic field, split into what it is and its bounds."""

    origin: Any
    """`bool`, `int`, `float`, `str`, `Path`, `Literal`, `tuple` or `dict`."""
    parts: tuple[Any, ...]
    """The values of a `Literal`, or the kind of the values of a `tuple` or `dict`."""
    bounds: Mapping[str, float]
    """Bounds by pydantic's names: gt, ge, lt, le."""

    @classmethod
    def of(cls, annotation: Any, metadata: Iterable[Any] = ()) -> Kind:
        """Split a type; of an optional type, the part that is not None."""
        origin, parts = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            inner = (item for part in parts[1:] for item in getattr(part, "metadata", [part]))
            return cls.of(parts[0], [*metadata, *inner])
        if type(None) in parts:
            return cls.of(next(part for part in parts if part is not type(None)), metadata)
        if origin in (tuple, dict):
            values = parts[0] if origin is tuple else parts[1]
            parts = (cls.of(values),)
        bounds = {
            name: bound
            for item in metadata
            for name in ("gt", "ge", "lt", "le")
            if (bound := getattr(item, name, None)) is not None
        }
        return cls(origin or annotation, parts, bounds)

    def __str__(self) -> str:
        """Return what is allowed, such as "a whole number from 0 to 65535"."""
        if self.origin is Literal:
            *others, last = self.parts
            return f"{', '.join(others)} or {last}"
        if self.origin is tuple:
            return f"a comma-separated list, each {self.parts[0]}"
        if self.origin is dict:
            return f"comma-separated NAME=VALUE pairs, each value {self.parts[0]}"
        return _SIMPLE.get(self.origin, "text") + self._range()

    def _range(self) -> str:
        if {"ge", "le"} <= self.bounds.keys():
            return f" from {self.bounds['ge']} to {self.bounds['le']}"
        words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}
        bounds = [f"{words[name]} {bound}" for name, bound in sorted(self.bounds.items())]
        return " " + " and ".join(bounds) if bounds else ""

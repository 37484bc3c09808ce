"""What a field of a model of flags allows, in words: for its help, and about a bad value."""

from __future__ import annotations

from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

_LONGEST = 100  # characters of a value that are shown


def allowed(model: type[BaseModel], name: str) -> str:
    """Say what a field takes; nothing where that is any text, or a flag without a value."""
    schema: dict[str, Any] = model.model_json_schema()["properties"][name]
    return _of_schema(schema)


def complaint(model: type[BaseModel], error: Any) -> str:
    """Say what is wrong with a field by one of a `ValidationError`'s errors."""
    own = str(error["msg"])
    if error["type"] == "value_error":
        said = own.removeprefix("Value error, ")
        return f"{said}, not {_shown(error['input'])}" if error["loc"] and error["input"] else said
    wanted = allowed(model, str(error["loc"][0]))
    return f"must be {wanted or 'text'}, not {_shown(error['input'])}"


def formatter_of(model: type[BaseModel]) -> type[RawDescriptionHelpFormatter]:
    """Give a formatter of a parser's help that says what each field of the model allows.

    Only there, since it takes ten milliseconds that a start can do without.
    """

    class Formatter(RawDescriptionHelpFormatter):
        def _get_help_string(self, action: Action) -> str | None:
            field = model.model_fields.get(action.dest)
            if field is None or field.annotation is bool:
                return action.help
            words = allowed(model, action.dest)
            default = "" if field.default in (None, (), {}) else f" [{field.default}]"
            return f"{action.help}{words and f' ({words})'}{default}"

    return Formatter


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _of_schema(schema: dict[str, Any]) -> str:
    for option in schema.get("anyOf", ()):  # of a value and none, the value
        if option.get("type") != "null":
            return _of_schema(option)
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return _either(values)
    if schema.get("type") == "array":
        return f"{_of_schema(schema['items'])}, or several separated by commas"
    kinds = {"integer": "a whole number", "number": "a number"}
    kind = kinds.get(schema.get("type", ""))
    return f"{kind}{_bounds(schema)}" if kind else ""


def _bounds(schema: dict[str, Any]) -> str:
    least, above, most = (schema.get(k) for k in ("minimum", "exclusiveMinimum", "maximum"))
    if above is not None:
        return f" above {above}" + ("" if most is None else f", at most {most}")
    if least is None:
        return "" if most is None else f", at most {most}"
    return f" from {least} up" if most is None else f" from {least} to {most}"


def _either(values: Sequence[object]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last

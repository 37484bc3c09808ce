"""What a value may be, and what is wrong with one, in the words of who gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = {
    "missing": "is missing",
    "extra_forbidden": "is unknown here; a newer release may have written it",
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
    "json_invalid": "is no JSON: {error}",
    "union_tag_not_found": "says no kind",
    "union_tag_invalid": "must be of one of the kinds {expected_tags}",
    "string_pattern_mismatch": "must match {pattern}",
}

_SIMPLE = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "path": "a path",
}


def what_is_wrong(item: Mapping[str, Any]) -> str:
    """Put one of pydantic's errors into a few plain words, as in "must be at least 1"."""
    words = _KINDS.get(item["type"])
    if words is not None:
        return words.format(**item.get("ctx", {}))
    return str(item["msg"]).removeprefix("Value error, ").replace("Input should", "must")


def what_is_allowed(schema: Mapping[str, Any]) -> str:
    """Say what the values of a JSON schema are, as in "a whole number from 0 to 65535"."""
    for choice in schema.get("anyOf", ()):
        if choice.get("type") != "null":
            return what_is_allowed(choice)
    if "enum" in schema:
        *others, last = schema["enum"]
        return f"{', '.join(others)} or {last}"
    match schema["type"]:
        case "array":
            return f"a list, separated by commas, each {what_is_allowed(schema['items'])}"
        case "object":
            each = what_is_allowed(schema["additionalProperties"])
            return f"pairs NAME=VALUE, separated by commas, each value {each}"
        case kind:
            return _SIMPLE[schema.get("format", kind)] + _range(schema)


def _range(schema: Mapping[str, Any]) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most = schema.get("maximum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    bounds = [
        f"{word} {bound}"
        for word, bound in (("above", above), ("at least", least), ("at most", most))
        if bound is not None
    ]
    return " " + " and ".join(bounds) if bounds else ""

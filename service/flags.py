"""Command-line flags from a pydantic model: one per field, validated by the model alone."""

from __future__ import annotations

import argparse
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from service.wording import Kind, what_is_wrong

_PLACEHOLDERS: Mapping[Any, str] = {
    int: "N",
    float: "N",
    Path: "PATH",
    tuple: "A,B,...",
    dict: "NAME=N,...",
}


def flag_of(name: str) -> str:
    """Return the command-line flag for a field."""
    return "--" + name.replace("_", "-")


def add_flags(
    parser: argparse.ArgumentParser,
    model: type[BaseModel],
    groups: Mapping[str, str],
    names: Mapping[str, str] | None = None,
    but: Container[str] = (),
    only: Mapping[str, str] | None = None,
) -> None:
    """Add one flag per field, `but` for some; values stay text.

    `groups` maps the first field of each group to the group's title, `names` maps fields to flag
    names that differ from theirs. A switch whose field is called `no_...` can only be set. `only`
    has the fields to add, each with a description to show instead of its own, if not empty.
    """
    group: argparse._ActionsContainer = parser
    for name, field in model.model_fields.items():
        if name in but:
            continue
        if name in groups:
            group = parser.add_argument_group(groups[name])
        if only is not None and name not in only:
            continue
        flag = flag_of((names or {}).get(name, name))
        kind = Kind.of(field.annotation, field.metadata)
        unset = field.default is False or field.default in (None, (), {})
        default = "" if unset else f" [{field.default}]"
        description = (only or {}).get(name) or field.description
        text = f"{description}{_allowed(kind)}{default}".replace("%", "%%")
        if field.annotation is not bool:
            group.add_argument(flag, dest=name, default=None, help=text, metavar=_placeholder(kind))
        elif name.startswith("no_"):
            group.add_argument(flag, dest=name, action="store_true", default=None, help=text)
        else:
            group.add_argument(
                flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text
            )


def what_is_wrong_with_flag(
    item: Mapping[str, Any], model: type[BaseModel], flag: str | None = None
) -> str:
    """Return a message with the flag, its bad value and what is allowed, from a pydantic error.

    An error about several fields names them itself.
    """
    if not item["loc"]:
        return what_is_wrong(item)
    name = str(item["loc"][0])
    said = what_is_wrong(item)
    if item["type"] != "value_error":
        field = model.model_fields[name]
        said = f"must be {Kind.of(field.annotation, field.metadata)}"
    return f"{flag or flag_of(name)}: {said}, got {item['input']!r}"


def _allowed(kind: Kind) -> str:
    """Return a number's range for the help text; for other values the placeholder says enough."""
    said = str(kind)
    return f"; {said}" if "number" in said else ""


def _placeholder(kind: Kind) -> str:
    if kind.origin is Literal:
        return "{" + ",".join(kind.parts) + "}"
    return _PLACEHOLDERS.get(kind.origin, "TEXT")

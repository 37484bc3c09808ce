"""Query parameters."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from service.errors import InvalidParameterError, UnknownLabelError
from service.models.model import ServedModel
from service.wording import shortened, what_is_wrong

_SHOWN_IDS = 10

Q = TypeVar("Q", bound=BaseModel)


@lru_cache(maxsize=64)
def read_query(query_string: bytes, schema: type[Q]) -> Q:
    """Parse a query by its schema; cached, since clients send few different ones.

    Parameters that the schema does not have are ignored, unless the schema forbids them. Raises
    `InvalidParameterError`.
    """
    query: dict[str, str] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name not in schema.model_fields:
            if schema.model_config.get("extra") != "forbid":
                continue
            allowed = ", ".join(schema.model_fields)
            raise InvalidParameterError(
                f"there is no parameter {shortened(name)!r}; allowed: {allowed}"
            )
        if name in query:
            raise InvalidParameterError(f"{name} is given twice")
        query[name] = value
    try:
        return schema.model_validate(query)
    except ValidationError as error:
        faults = [
            f"{item['loc'][0]}: {what_is_wrong(item)}, got {shortened(str(item['input']))!r}"
            for item in error.errors()
        ]
        raise InvalidParameterError("; ".join(faults)) from None


def label_wanted(text: str | None, model: ServedModel) -> int | None:
    """Return the index of the class that `label` names; None if it is not given.

    It is an id, an index or an exact name, whichever matches first. Raises `UnknownLabelError`.
    """
    if text is None:
        return None
    labels = model.contract.labels
    for index, label in enumerate(labels):
        if label.id == text:
            return index
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(len(labels)))
    if is_number and int(text) < len(labels):
        return int(text)
    named = [index for index, label in enumerate(labels) if label.label == text]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(labels[index].id for index in named[:_SHOWN_IDS])
        raise UnknownLabelError(f"several labels are called {shortened(text)!r}; use an id: {ids}")
    raise UnknownLabelError(
        f"{model.name} has no label {shortened(text)!r}; give an id, an exact name or an index "
        f"from 0 to {len(labels) - 1} (/v1/models/{model.name} lists them)"
    )

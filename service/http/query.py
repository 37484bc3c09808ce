"""The query of a request for labels."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import parse_qsl

from pydantic import ValidationError

from service.errors import InvalidParameterError, TopKError
from service.http.problems import invalid_parameters
from service.http.schemas import ClassifyQuery
from service.models.model import ServedModel
from service.wording import shortened

_DEFAULT_TOP_K = 5


@lru_cache(maxsize=64)
def read_query(query_string: bytes) -> ClassifyQuery:
    """Judge the query; clients send few different ones. Raises `InvalidParameterError`."""
    query: dict[str, str] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name not in ClassifyQuery.model_fields:
            allowed = ", ".join(ClassifyQuery.model_fields)
            raise InvalidParameterError(
                f"there is no parameter {shortened(name)!r}; allowed are {allowed}"
            )
        if name in query:
            raise InvalidParameterError(f"{name} is given twice")
        query[name] = value
    try:
        return ClassifyQuery.model_validate(query)
    except ValidationError as error:
        raise invalid_parameters(error.errors()) from None


def labels_wanted(top: int | None, model: ServedModel) -> int:
    """Return how many labels each image gets. Raises `TopKError`."""
    classes = len(model.contract.labels)
    if top is None:
        return min(_DEFAULT_TOP_K, classes)
    if not 1 <= top <= classes:
        raise TopKError(f"top_k is {top}; {model.name} allows 1 to {classes}")
    return top

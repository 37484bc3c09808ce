"""Models as the paths of the Open Inference Protocol name them."""

from __future__ import annotations

from service.errors import UnknownModelError
from service.http.exchange import Exchange
from service.http.stages import find_model
from service.models.model import ServedModel
from service.wording import shortened

_MOST_DIGITS = 9


def version_of(text: str) -> int:
    """Return a version; raises `UnknownModelError` if it is no number."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise UnknownModelError(f"there is no version {shortened(text)!r}; versions are numbers")
    return int(text)


def named_model(exchange: Exchange) -> ServedModel:
    """Return the model that the path names, of its highest version if it names none.

    Raises what `Repository.find` does.
    """
    parameters = exchange.path_parameters
    version = parameters.get("version")
    number = None if version is None else version_of(version)
    return find_model(exchange, parameters["name"], number)

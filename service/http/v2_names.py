"""Models as the paths of the Open Inference Protocol name them."""

from __future__ import annotations

from service.http.exchange import Exchange
from service.http.stages import find_model
from service.kserve.names import version_of
from service.models.model import ServedModel


def named_model(exchange: Exchange) -> ServedModel:
    """Return the model that the path names, of its highest version if it names none.

    Raises what `Repository.find` does.
    """
    parameters = exchange.path_parameters
    return find_model(exchange, parameters["name"], version_of(parameters.get("version")))


def shown_model(exchange: Exchange) -> ServedModel:
    """Return the model that the path names, to be looked at: an evicted one stays evicted.

    Raises what `Repository.look_up` does.
    """
    parameters, record = exchange.path_parameters, exchange.record
    model = exchange.runtime.repository.look_up(
        parameters["name"], version_of(parameters.get("version")), record.request_id
    )
    record.model = model.name
    return model

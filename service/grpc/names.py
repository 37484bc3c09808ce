"""Models as messages name them."""

from __future__ import annotations

from service.inference.record import RequestRecord
from service.inference.runtime import Runtime
from service.kserve.names import version_of
from service.models.model import ServedModel


def model_of(runtime: Runtime, name: str, version: str, record: RequestRecord) -> ServedModel:
    """Return the model that a message names, and record it. Raises what `Repository.find` does."""
    model = runtime.repository.find(name, version_of(version), record.request_id)
    record.model = model.name
    return model


def shown_model_of(runtime: Runtime, name: str, version: str, record: RequestRecord) -> ServedModel:
    """Return the model that a message names, to be looked at: an evicted one stays evicted.

    Raises what `Repository.look_up` does.
    """
    model = runtime.repository.look_up(name, version_of(version), record.request_id)
    record.model = model.name
    return model

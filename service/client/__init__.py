"""A typed client of the service, for Python programs: `Client` and `AsyncClient`.

It needs httpx (the extra `client`), and neither ONNX Runtime nor FastAPI.
"""

from __future__ import annotations

from service.classification import Classification, Prediction, Result
from service.client.asynchronous import AsyncClient
from service.client.results import Health, Limits, Model, ModelDetail, ModelHealth
from service.client.synchronous import Client

__all__ = [
    "AsyncClient", "Classification", "Client", "Health", "Limits", "Model", "ModelDetail",
    "ModelHealth", "Prediction", "Result",
]  # fmt: skip

"""The calls that describe the server and its models, and those that are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any

from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]  # has none
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has none
from grpc.aio import ServicerContext as Context

from service.access.scopes import Scope
from service.errors import InvalidInferError, NotSupportedError, SharedMemoryError
from service.grpc.calls import Calls
from service.grpc.convert import parameters_of
from service.grpc.messages import messages
from service.grpc.names import model_of, shown_model_of
from service.inference.record import RequestRecord
from service.inference.runtime import Runtime
from service.kserve import describe
from service.models.model import ServedModel
from service.models.state import State

Answer = dict[str, Any]
Handler = Callable[[Any, RequestRecord], Answer | Awaitable[Answer]]
"""Takes a request, returns its response as protobuf's JSON."""

_SCOPES: Mapping[str, Scope] = {
    "ServerLive": Scope.PUBLIC,
    "ServerReady": Scope.PUBLIC,
    "ModelStatistics": Scope.METRICS,
    "RepositoryModelLoad": Scope.ADMIN,
    "RepositoryModelUnload": Scope.ADMIN,
}
"""What an API key needs for a method; as over REST, and `classify` for all others."""


class Describing:
    """The unary methods except ModelInfer."""

    def __init__(self, runtime: Runtime, calls: Calls) -> None:
        self._runtime, self._calls = runtime, calls
        self.methods: Mapping[str, Handler] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": lambda *_: describe.server_metadata(),
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "SystemSharedMemoryStatus": _nothing,
            "SystemSharedMemoryRegister": _no_shared_memory,
            "SystemSharedMemoryUnregister": _nothing,
            "CudaSharedMemoryStatus": _nothing,
            "CudaSharedMemoryRegister": _no_shared_memory,
            "CudaSharedMemoryUnregister": _nothing,
            "TraceSetting": self._trace,
            "LogSettings": _no_logging,
        }

    async def answer(
        self, method: str, name: str, requests: AsyncIterator[bytes], context: Context
    ) -> bytes:
        """Answer a call of the method `name`, whose full name is `method`."""
        async with self._calls.call(method, context, _SCOPES.get(name, Scope.CLASSIFY)) as record:
            data = await self._calls.message_of(requests)
            try:
                request = getattr(messages, f"{name}Request").FromString(data)
            except DecodeError as error:
                raise InvalidInferError(f"the message is no {name}Request") from error
            found = self.methods[name](request, record)
            shown = await found if isawaitable(found) else found
            response = getattr(messages, f"{name}Response")()
            return bytes(ParseDict(shown, response).SerializeToString())
        raise AssertionError("a failed call is aborted")  # as type checkers can't know

    def _model(self, request: Any, record: RequestRecord) -> ServedModel:
        return model_of(self._runtime, request.name, request.version, record)

    def _shown(self, request: Any, record: RequestRecord) -> ServedModel:
        return shown_model_of(self._runtime, request.name, request.version, record)

    def _live(self, *_: object) -> dict[str, Any]:
        return {"live": not self._runtime.repository.troubles()}

    def _ready(self, *_: object) -> dict[str, Any]:
        return {"ready": not self._runtime.unready_reasons()}

    def _model_ready(self, request: Any, record: RequestRecord) -> dict[str, Any]:
        return {"ready": self._shown(request, record).state is State.READY}

    def _metadata(self, request: Any, record: RequestRecord) -> dict[str, Any]:
        model = self._model(request, record)
        return describe.model_metadata(model, self._runtime.repository.models)

    def _config(self, request: Any, record: RequestRecord) -> dict[str, Any]:
        model = self._model(request, record)
        return {"config": describe.model_config(model, self._runtime.settings.max_images)}

    def _statistics(self, request: Any, record: RequestRecord) -> dict[str, Any]:
        repository = self._runtime.repository
        models = [self._shown(request, record)] if request.name else list(repository)
        return {"model_stats": [describe.model_statistics(model) for model in models]}

    async def _index(self, request: Any, _: RequestRecord) -> dict[str, Any]:
        entries = await self._runtime.control.index(ready_only=request.ready)
        return {"models": describe.repository_index(entries)}

    async def _load(self, request: Any, record: RequestRecord) -> dict[str, Any]:
        record.model = request.model_name
        parameters = parameters_of(request.parameters)
        await self._runtime.control.load(request.model_name, parameters)
        return {}

    async def _unload(self, request: Any, record: RequestRecord) -> dict[str, Any]:
        record.model = request.model_name
        parameters = parameters_of(request.parameters)
        await self._runtime.control.unload(request.model_name, parameters)
        return {}

    def _trace(self, request: Any, record: RequestRecord) -> dict[str, Any]:
        if request.model_name:
            model_of(self._runtime, request.model_name, "", record)
        if request.settings:
            raise NotSupportedError(describe.NO_TRACING)
        return {}


def _nothing(*_: object) -> dict[str, Any]:
    return {}


def _no_shared_memory(*_: object) -> dict[str, Any]:
    raise SharedMemoryError(describe.NO_SHARED_MEMORY)


def _no_logging(*_: object) -> dict[str, Any]:
    raise NotSupportedError(describe.NO_LOGGING)

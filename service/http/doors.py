"""The routes of other people's protocols, one row each.

Their descriptions are published by others, so `/openapi.json` does not repeat them.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.access.scopes import Scope
from service.http import clouds
from service.http import v2_describe as describe
from service.http import v2_extensions as extensions
from service.http.routes import Handler
from service.http.v2_infer import infer
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Door:
    """One method of one path template."""

    method: str
    path: str
    handler: Handler
    scope: Scope = Scope.CLASSIFY
    also_head: bool = False


def _of_model(
    method: str, path: str, handler: Handler, scope: Scope = Scope.CLASSIFY
) -> tuple[Door, Door]:
    """Return a model's route, with and without a version."""
    model = "/v2/models/{name}"
    return (
        Door(method, model + path, handler, scope),
        Door(method, model + "/versions/{version}" + path, handler, scope),
    )


def _shared_memory(kind: str) -> tuple[Door, ...]:
    path = f"/v2/{kind}sharedmemory"
    return (
        Door("GET", f"{path}/status", extensions.shared_memory_status),
        Door("GET", path + "/region/{region}/status", extensions.shared_memory_status),
        Door("POST", path + "/region/{region}/register", extensions.register_shared_memory),
        Door("POST", f"{path}/unregister", extensions.unregister_shared_memory),
        Door("POST", path + "/region/{region}/unregister", extensions.unregister_shared_memory),
    )


OPEN_INFERENCE = (
    *_of_model("POST", "/infer", infer),
    Door("GET", "/v2/health/live", describe.live, Scope.PUBLIC, also_head=True),
    Door("GET", "/v2/health/ready", describe.ready, Scope.PUBLIC, also_head=True),
    Door("GET", "/v2", describe.server),
    Door("GET", "/v2/", describe.server),  # as the protocol's own schema writes it
    Door("GET", "/v2/models", describe.names),
    Door("GET", "/v2/models/stats", describe.all_statistics, Scope.METRICS),
    *_of_model("GET", "/ready", describe.model_ready),
    *_of_model("GET", "/config", describe.config),
    *_of_model("GET", "/stats", describe.statistics, Scope.METRICS),
    *_of_model("GET", "", describe.metadata),
    Door("POST", "/v2/repository/index", extensions.index),
    Door("POST", "/v2/repository/models/{name}/load", extensions.load_model, Scope.ADMIN),
    Door("POST", "/v2/repository/models/{name}/unload", extensions.unload_model, Scope.ADMIN),
    Door("GET", "/v2/trace/setting", extensions.trace_settings),
    Door("POST", "/v2/trace/setting", extensions.change_trace_settings),
    Door("GET", "/v2/models/{name}/trace/setting", extensions.trace_settings),
    Door("POST", "/v2/models/{name}/trace/setting", extensions.change_trace_settings),
    Door("GET", "/v2/logging", extensions.log_settings),
    Door("POST", "/v2/logging", extensions.log_settings),
    *_shared_memory("system"),
    *_shared_memory("cuda"),
)
"""KServe's protocol V2 with Triton's extensions; requests are matched in this order."""

TORCHSERVE = (
    Door("GET", "/ping", clouds.ping, Scope.PUBLIC, also_head=True),
    *(
        Door(method, path, clouds.predictions)
        for path in ("/predictions/{name}", "/predictions/{name}/{version}")
        for method in ("POST", "PUT")
    ),
)
"""TorchServe's inference API. Its examples send a file with `curl -T`, and so as PUT."""

SAGEMAKER = (Door("POST", "/invocations", clouds.invocations),)
"""What Amazon SageMaker asks of a container, beside /ping."""

DOORS = (*OPEN_INFERENCE, *TORCHSERVE, *SAGEMAKER)


def vertex_doors(settings: Settings) -> tuple[Door, ...]:
    """Return the routes that Vertex AI chooses by its variables, if it is there."""
    health, predict = settings.vertex_health_route, settings.vertex_predict_route
    found = [Door("GET", health, clouds.ping, Scope.PUBLIC)] if health else []
    found += [Door("POST", predict, clouds.vertex)] if predict else []
    return tuple(found)

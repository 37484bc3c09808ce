"""Wires the service together. Read this first.

    settings -> metrics, repository (models loaded, not yet warm), decode pool -> Runtime
    CORS, root path -> RequestMiddleware (id, metrics, log line, errors) -> the table of routes
                    -> a handler, which calls the pipeline of `inference/`

The server listens before the models are warm: until then probes see "starting" and requests get
503.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__, watched
from service.engine.base import Opener
from service.errors import RouteNotFoundError, SettingsError
from service.http.doors import DOORS, vertex_doors
from service.http.middleware import RequestMiddleware
from service.http.pages import add_pages
from service.http.root_path import WithoutRootPath, WithRootPath
from service.http.router import Row, TableRouter
from service.http.routes import MONITORING, OPERATIONS, WITHOUT_MONITORING
from service.inference.runtime import Runtime, create_runtime
from service.memory import give_back_while_running
from service.models.watchdog import watch
from service.settings import Settings
from service.tls import Tls, TlsPaths

_EXPOSED = (
    "X-Request-Id", "Server-Timing", "Retry-After", "X-Shape", "X-Region", "X-Label-Index",
    "Inference-Header-Content-Length",
)  # fmt: skip
"""Headers of answers that scripts of other origins may read."""

if TYPE_CHECKING:
    from service.grpc.front import GrpcFront


def create_app(settings: Settings, opener: Opener | None = None) -> FastAPI:
    """Load the models and create the application.

    `opener` opens model files instead of ONNX Runtime. Raises a `StartupError` if the service can't
    start with these settings.
    """
    _check_grpc(settings)
    runtime = create_runtime(settings, opener)
    app = FastAPIOffline(  # its /docs needs no CDN: a cluster may have no Internet access
        title="resnet-serve",
        version=__version__,
        summary="Image classification with dynamic batching.",
        lifespan=_lifespan,
        redirect_slashes=False,  # a redirect would be built from the client's Host header
    )
    app.state.runtime = runtime
    app.state.tls = _tls(settings)
    add_pages(app, runtime)
    _check_root_path(app, settings)
    # Replaces FastAPI's own stack, which only serves the pages: its layers took as long as
    # decoding, batching and answering a small image.
    app.middleware_stack = _layers(app, app.build_middleware_stack(), runtime)
    app.state.monitoring = _monitoring_layers(runtime)
    return app


def _layers(app: FastAPI, stack: ASGIApp, runtime: Runtime) -> ASGIApp:
    """Wrap the routes in the layers of a request; FastAPI's `stack` serves the pages."""
    settings = runtime.settings

    async def pages(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app  # the server may have called the layers directly, bypassing the app
        await stack(scope, receive, send)

    others = pages if settings.root_path is None else WithRootPath(pages, settings.root_path)
    operations = OPERATIONS if settings.metrics_port is None else WITHOUT_MONITORING
    # Vertex AI's come last and win: whoever runs this there has chosen them, even /health.
    rows: tuple[Row, ...] = (*DOORS, *operations, *vertex_doors(settings))
    router = TableRouter(rows, others, runtime.guard, admin_is_open=settings.admin)
    layers: ASGIApp = RequestMiddleware(router, runtime)
    if settings.root_path is not None:
        layers = WithoutRootPath(layers, settings.root_path)
    if settings.cors_origins:
        layers = CORSMiddleware(  # outermost, so that errors get its headers too
            layers,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    return layers


def _monitoring_layers(runtime: Runtime) -> ASGIApp:
    """Return the application for `--metrics-port`."""

    async def unknown(scope: Scope, _: Receive, __: Send) -> None:
        raise RouteNotFoundError(f"there is no {scope['path']} on the port for metrics and health")

    return RequestMiddleware(TableRouter(MONITORING, unknown, runtime.guard), runtime)


def _tls(settings: Settings) -> Tls | None:
    if settings.tls_cert is None:
        return None
    return Tls(TlsPaths(settings.tls_cert, settings.tls_key, settings.tls_client_ca))


def _check_root_path(app: FastAPI, settings: Settings) -> None:
    """Refuse a root path that could be mistaken for one of the service's own paths."""
    root_path = settings.root_path
    first = (root_path or "").split("/")[1:2]
    paths = [route.path for route in app.routes if isinstance(route, Route | Mount)]
    rows: tuple[Row, ...] = (*OPERATIONS, *DOORS, *vertex_doors(settings))
    paths += [each.path for each in rows]
    own = {path.split("/")[1] for path in paths}
    if first and first[0] in own:
        raise SettingsError(
            f"--root-path (RESNET_SERVE_ROOT_PATH): must not begin with /{first[0]}, like one of "
            f"the service's own paths, got {root_path!r}"
        )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    runtime: Runtime = app.state.runtime
    # First: if it fails, nothing else has to be ended.
    front = await _started_grpc(runtime, app.state.tls)
    runtime.repository.start()
    # A daemon, so that a device that hangs in warm-up can't keep the process from exiting.
    warm_up = threading.Thread(target=_warm_up, args=(app, runtime), name="warm-up", daemon=True)
    warm_up.start()
    readers = [reader for reader in (runtime.guard, app.state.tls) if reader is not None]
    tasks = [
        asyncio.create_task(watch(runtime.repository)),
        asyncio.create_task(watched.watch(readers)),
        asyncio.create_task(give_back_while_running()),
    ]
    if runtime.folder_watch is not None:
        tasks.append(asyncio.create_task(runtime.folder_watch.run()))
    try:
        yield
    finally:
        if front is not None:
            await front.stopped()
        for task in tasks:
            task.cancel()
        # Every accepted request has been answered or given up by now.
        runtime.warm_up_stop.set()
        runtime.decode_pool.close()
        await asyncio.to_thread(warm_up.join, runtime.left_to_stop_s())
        if not warm_up.is_alive():
            await asyncio.to_thread(runtime.repository.close, runtime.left_to_stop_s())


async def _started_grpc(runtime: Runtime, tls: Tls | None) -> GrpcFront | None:
    """Start the gRPC front if it is asked for."""
    if not runtime.settings.grpc_port:
        return None
    from service.grpc.front import GrpcFront  # noqa: PLC0415 - gRPC is an extra

    front = GrpcFront(runtime, tls)
    await front.start()
    runtime.begin_grpc_stop = front.begin_stop
    return front


def _check_grpc(settings: Settings) -> None:
    """Raise `SettingsError` if gRPC is asked for and its packages or its port are not to be had."""
    if not settings.grpc_port:
        return
    try:
        from service.grpc.front import check_port  # noqa: PLC0415 - gRPC is an extra
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--grpc-port (RESNET_SERVE_GRPC_PORT): {error.name} is not installed; "
            "install the package with its extra [grpc]"
        ) from error
    check_port(settings.host, settings.grpc_port)


def _warm_up(app: FastAPI, runtime: Runtime) -> None:
    runtime.repository.warm_up(runtime.warm_up_stop)
    app.openapi()  # slow enough to block the event loop, so it is generated and cached here

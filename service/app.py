"""Wires the service. Read this first.

    settings -> metrics, repository (models loaded, not yet warm), gates, jobs (decoding) -> Service
    CORS, root path -> Edge (id, metrics, log line, errors) -> Classify, or routes (operations)

The server listens before the models are warm: probes see "starting", and a request gets 503.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.routing import Route
from starlette.types import ASGIApp

from service import __version__
from service.batching.admission import ByteGate
from service.batching.decode_pool import DecodePool
from service.cpus import cpu_count
from service.engine.base import Opener
from service.errors import SettingsError
from service.http import operations
from service.http.classify import Classify
from service.http.middleware import Direct, RequestMiddleware
from service.http.openapi import CLASSIFY_PATH, describe, documented
from service.http.problems import add_problem_handlers
from service.http.root_path import WithoutRootPath, WithRootPath
from service.inference.pipeline import Pipeline
from service.inference.runtime import Runtime
from service.memory import give_back_while_running
from service.metrics import Metrics
from service.models.loader import load_repository
from service.models.watchdog import watch
from service.preprocess.decode import DecodePolicy, prepare_decoding
from service.preprocess.memory import DecodingMemory
from service.settings import Settings


def create_app(settings: Settings, opener: Opener | None = None) -> FastAPI:
    """Load the models and make the application.

    Serve it through `entry_of`. `opener` opens model files in the place of ONNX Runtime. Raises a
    `StartupError` when it can't be done as the settings ask.
    """
    runtime = create_runtime(settings, opener)
    app = FastAPIOffline(  # FastAPI whose /docs needs no CDN: a cluster may have no way out
        title="resnet-serve",
        version=__version__,
        summary="Image classification with dynamic batching.",
        lifespan=_lifespan,
        redirect_slashes=False,  # a redirect would be built from the client's Host header
    )
    app.state.runtime = runtime
    add_problem_handlers(app)
    describe(app, settings.root_path)
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    for router in (documented, operations.probes, operations.router):
        app.include_router(router)
        paths |= {route.path for route in router.routes if isinstance(route, Route)}
    _check_root_path(paths, settings.root_path)
    return app


def _check_root_path(paths: set[str], root_path: str | None) -> None:
    """Refuse a path of the proxy's that could be meant for one of the service's own, `paths`."""
    first = (root_path or "").split("/")[1:2]
    if first and first[0] in {path.split("/")[1] for path in paths}:
        raise SettingsError(
            f"--root-path (RESNET_SERVE_ROOT_PATH): must not begin with /{first[0]}, as one of the "
            f"service's own paths does, got {root_path!r}"
        )


def create_runtime(settings: Settings, opener: Opener | None = None) -> Runtime:
    """Load the models, and make what the routes share."""
    metrics = Metrics()
    metrics.set_build(__version__)
    memory = DecodingMemory(settings.max_decoding_bytes)
    decode_pool = DecodePool(settings.decode_threads or cpu_count(), memory.waited_s)
    repository = load_repository(settings, metrics, decode_pool, opener)
    prepare_decoding()
    policy = DecodePolicy(settings.max_image_pixels, settings.jpeg_draft_ratio, memory)
    body_bytes = ByteGate(settings.max_inflight_bytes)
    metrics.watch_bytes(lambda: body_bytes.held)
    return Runtime(
        settings=settings,
        repository=repository,
        metrics=metrics,
        body_bytes=body_bytes,
        decode_pool=decode_pool,
        inference=Pipeline(decode_pool, policy, metrics, coalesce=settings.coalesce),
    )


def entry_of(app: FastAPI) -> ASGIApp:
    """Give what the server is to call: the application behind its edge.

    Not one of its middlewares: those run inside several layers of the framework's own.
    """
    runtime: Runtime = app.state.runtime
    settings = runtime.settings
    direct: Direct = {
        ("POST", CLASSIFY_PATH): Classify(runtime),
        ("OPTIONS", "*"): operations.options,
    }
    if settings.root_path is None:
        edge: ASGIApp = RequestMiddleware(app, runtime, direct)
    else:
        framework = WithRootPath(app, settings.root_path)
        edge = WithoutRootPath(RequestMiddleware(framework, runtime, direct), settings.root_path)
    if not settings.cors_origins:
        return edge
    return CORSMiddleware(  # outermost: errors of the edge get its headers too
        edge,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id", "Server-Timing", "Retry-After"],
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    runtime: Runtime = app.state.runtime
    runtime.repository.start()
    # A daemon: a device that hangs in warm-up must not keep the process from ending.
    warm_up = threading.Thread(target=_warm_up, args=(app, runtime), name="warm-up", daemon=True)
    warm_up.start()
    watchdog = asyncio.create_task(watch(runtime.repository))
    giver = asyncio.create_task(give_back_while_running())
    try:
        yield
    finally:
        watchdog.cancel()
        giver.cancel()
        # Every accepted request has been answered or given up by now.
        runtime.warm_up_stop.set()
        runtime.decode_pool.close()
        await asyncio.to_thread(warm_up.join, runtime.left_to_stop_s())
        if not warm_up.is_alive():
            await asyncio.to_thread(runtime.repository.close, runtime.left_to_stop_s())


def _warm_up(app: FastAPI, runtime: Runtime) -> None:
    runtime.repository.warm_up(runtime.warm_up_stop)
    app.openapi()  # made once, and long enough for the event loop to notice

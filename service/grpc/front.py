"""The gRPC server: its methods, health, reflection, limits, start and stop."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.errors import SettingsError
from service.grpc.calls import Calls
from service.grpc.credentials import server_credentials
from service.grpc.describing import Describing
from service.grpc.inferring import Inferring
from service.grpc.messages import messages
from service.inference.runtime import Runtime
from service.tls import Tls

_SERVICE = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_BESIDE_DATA = 64 * 1024  # bytes of a message beside its tensors
_HEALTH_S = 1.0
_JUST_ACCEPTED_S = 0.1
_LAST_ANSWERS_S = 0.5

_log = structlog.get_logger(__name__)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """The standard health service; whoever watches learns of changes within a second."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._runtime = runtime

    async def update(self) -> None:
        """Set whether the service is ready."""
        states = health_pb2.HealthCheckResponse
        ready = not self._runtime.unready_reasons()
        for name in (health.OVERALL_HEALTH, _SERVICE):
            await self.set(name, states.SERVING if ready else states.NOT_SERVING)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Answer by the present state."""
        await self.update()
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - gRPC's name
        """Tell the present state, and each that follows."""
        await self.update()
        await super().Watch(request, context)


class GrpcFront:
    """Serves the protocol on a port of its own, on the event loop of the HTTP server."""

    def __init__(self, runtime: Runtime, tls: Tls | None = None) -> None:
        self._runtime, self._tls = runtime, tls
        self._calls = Calls(runtime)
        self._server: grpc.aio.Server | None = None
        self._health = _Health(runtime)
        self._updating: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises `SettingsError` if the port can't be had."""
        settings = self._runtime.settings
        most = settings.max_body_bytes + _BESIDE_DATA
        server = self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", -1),  # answers are the model's, not a client's
                ("grpc.so_reuseport", 0),  # or a port that is taken would be shared
            ],
            # Each may hold one message; those that run a model are limited by `max_queue` besides.
            maximum_concurrent_rpcs=2 * settings.max_queue,
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        try:
            if self._tls is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, server_credentials(self._tls))
        except RuntimeError as error:
            raise no_listener(settings.host, settings.grpc_port, "the address is in use") from error
        await self._health.update()
        await server.start()
        self._updating = asyncio.create_task(self._keep_health())
        _log.info("listening_grpc", address=address)

    def _handlers(self) -> Any:
        """Return all methods, which take and return bytes.

        Those with one message are called before it has come, as are streams, which look the same
        to clients: so one without a key takes no memory.
        """
        inferring = Inferring(self._runtime, self._calls)
        describing = Describing(self._runtime, self._calls)
        path = f"/{_SERVICE}/"
        found = {
            name: grpc.stream_unary_rpc_method_handler(
                partial(describing.answer, path + name, name)
            )
            for name in describing.methods
        }
        found["ModelInfer"] = grpc.stream_unary_rpc_method_handler(
            partial(inferring.one, f"{path}ModelInfer")
        )
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            partial(inferring.stream, f"{path}ModelStreamInfer")
        )
        return grpc.method_handlers_generic_handler(_SERVICE, found)

    def begin_stop(self, timeout_s: float) -> None:
        """Take no more calls, and answer those that were accepted within `timeout_s`."""
        if self._stopping is None and self._server is not None:
            self._calls.stop_by = time.monotonic() + timeout_s
            self._calls.stopping.set()
            self._stopping = asyncio.create_task(self._stop(self._server, timeout_s))

    async def _stop(self, server: grpc.aio.Server, timeout_s: float) -> None:
        """Stop within `timeout_s`; who only watches health is not waited for."""
        stopping = asyncio.create_task(server.stop(timeout_s))
        await asyncio.sleep(_JUST_ACCEPTED_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._calls.finished()
        await server.stop(_LAST_ANSWERS_S)  # of which the last may still be on their way
        await stopping

    async def stopped(self) -> None:
        """Wait until every accepted call is answered or abandoned."""
        self.begin_stop(self._runtime.left_to_stop_s())
        if self._updating is not None:
            self._updating.cancel()
            with suppress(asyncio.CancelledError):
                await self._updating
        if self._stopping is not None:
            await self._stopping

    async def _keep_health(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_S)
            await self._health.update()


def no_listener(host: str, port: int, why: str) -> SettingsError:
    """Return the error for a port that can't be listened on."""
    return SettingsError(f"can't listen on {host} port {port} (--host, --grpc-port): {why}")


def check_port(host: str, port: int) -> None:
    """Raise `SettingsError` if the port can't be bound, before models are loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise no_listener(host, port, error.strerror or str(error)) from error

"""uvicorn with its own shutdown sequence.

On SIGTERM, uvicorn closes its listeners at once, so a load balancer gets refused connections before
any probe has failed; then it raises the signal again, so even a clean stop exits with status 143.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

import structlog
import uvicorn
from fastapi import FastAPI

from service.errors import SettingsError
from service.http.http1 import http1_protocol
from service.inference.runtime import Runtime
from service.logs import LogWriter
from service.settings import Settings
from service.starting import signals_to_stop_at, switch_threads_often
from service.tls import Tls

_BACKLOG = 2048
_JUST_CONNECTED_S = 0.1
_LAST_WORDS_S = 0.5

_LOST_NEWS_S, _LOST_END_S = 1.0, 4.0
"""After a device is lost: how long probes and clients may still learn of it, and when the process
exits even if calls still hang in the driver."""

_log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Serves until SIGTERM, SIGINT, SIGHUP or the loss of a device, then shuts down in order.

    A second SIGTERM or SIGINT exits at once.

    1. `/readyz` answers 503, so that no new clients are sent here.
    2. For `drain_delay_s` everything is still served, while load balancers notice.
    3. The listeners close, and idle connections with them (uvicorn).
    4. Accepted requests are answered, for at most `drain_timeout_s` (uvicorn).
    5. Runners and engines end (the application's lifespan).

    When a device is lost, nothing more can be answered: clients get 503 and `/livez` fails for a
    moment, then the process exits, so that its supervisor starts another.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        runtime: Runtime,
        logs: LogWriter,
        monitoring: uvicorn.Config | None = None,
    ) -> None:
        super().__init__(config)
        self._monitoring = monitoring
        self._runtime = runtime
        self._logs = logs
        self._stopping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Task[None] | None = None
        runtime.repository.on_device_lost = self._on_device_lost

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle signals on the event loop; uvicorn would raise them again at the end."""
        self._loop = loop = asyncio.get_running_loop()
        for number in signals_to_stop_at():
            loop.add_signal_handler(number, self._on_signal, number)
        yield

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping is not None:
            if number == signal.SIGHUP:  # a closing terminal, or systemd, sends it in addition
                return
            _log.warning("stopped_at_once", signal=number.name)
            self._logs.close(_LAST_WORDS_S)
            os._exit(128 + number)  # threads and unanswered clients are left as they are
        self._stopping = asyncio.create_task(self._stop(number.name))

    async def _stop(self, why: str) -> None:
        runtime, settings = self._runtime, self._runtime.settings
        runtime.begin_drain()
        _log.info("draining", signal=why, delay_s=settings.drain_delay_s)
        await asyncio.sleep(settings.drain_delay_s)
        self.should_exit = True

    def _on_device_lost(self) -> None:
        """Exit within seconds; called on any thread."""
        timer = threading.Timer(_LOST_END_S, self._end_at_once)
        timer.daemon = True
        timer.start()
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and the process is about to exit
                self._loop.call_soon_threadsafe(self._begin_to_end)

    def _begin_to_end(self) -> None:
        self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        await asyncio.sleep(_LOST_NEWS_S)
        if self.should_exit:  # it is already stopping, with another time limit
            for task in self.server_state.tasks:
                task.cancel()
        self.config.timeout_graceful_shutdown = math.ceil(_LOST_NEWS_S)
        self.should_exit = True

    def _end_at_once(self) -> None:
        _log.error("stopped_at_once", detail="a device was lost")
        self._logs.close(_LAST_WORDS_S)
        os._exit(1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the first socket, and on a second one with the application for monitoring."""
        assert sockets  # noqa: S101 - given by `run_server`
        await super().startup(sockets[:1])
        loop, config = asyncio.get_running_loop(), self._monitoring
        if config is None:
            return
        config.load()

        def protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )

        for listener in sockets[1:]:
            self.servers.append(await loop.create_server(protocol, sock=listener, ssl=config.ssl))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listeners and, only a moment later, the connections without a request.

        uvicorn does both at once, so a client that has just connected would lose the request that
        it is sending.
        """
        for server in self.servers:
            server.close()
        self._runtime.begin_grpc_stop(self._runtime.left_to_stop_s())
        await asyncio.sleep(_JUST_CONNECTED_S)
        await super().shutdown(sockets)


def uvicorn_config(app: FastAPI, settings: Settings, *, monitoring: bool = False) -> uvicorn.Config:
    """Return uvicorn's configuration for serving the app, or what it has for `monitoring`."""
    runtime: Runtime = app.state.runtime
    tls: Tls | None = app.state.tls
    return uvicorn.Config(
        # Bypasses the entry points of FastAPI and Starlette, which look for telemetry each time.
        app.state.monitoring if monitoring else app.middleware_stack,  # type: ignore[arg-type]
        loop="uvloop",
        http=http1_protocol(  # type: ignore[arg-type]  # makes protocols
            settings.body_timeout_s,
            settings.write_timeout_s,
            runtime.metrics.count_refusal,
            settings.root_path,
        ),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        lifespan="off" if monitoring else "on",
        ssl_context_factory=None
        if tls is None
        else lambda *_: tls.context(asks_clients=not monitoring),
    )


def run_server(
    app: FastAPI,
    settings: Settings,
    logs: LogWriter,
    listener: socket.socket,
    monitoring: socket.socket | None = None,
) -> int:
    """Serve on bound sockets until stopped; return the exit status.

    `monitoring` is for `--metrics-port`. The status is 0 if every accepted request was answered, 1
    if requests were abandoned or a device was lost. Raises `SettingsError` if the address can't be
    listened on.
    """
    more = {}
    if monitoring is not None:
        more["metrics"] = _listen(monitoring, settings, "--metrics-port")
    _log.info("listening", url=_listen(listener, settings, "--port"), **more)
    runtime: Runtime = app.state.runtime
    switch_threads_often()
    gc.freeze()  # present objects stay, and collecting them would stall everything for 0.1 s
    server = Server(
        uvicorn_config(app, settings),
        runtime,
        logs,
        None if monitoring is None else uvicorn_config(app, settings, monitoring=True),
    )
    server.run(sockets=[listener] if monitoring is None else [listener, monitoring])
    _log.info("stopped", unanswered=runtime.given_up)
    return 1 if runtime.given_up or runtime.repository.lost else 0


def _listen(listener: socket.socket, settings: Settings, flag: str) -> str:
    """Start listening; return the URL. Raises `SettingsError`."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(_BACKLOG)
    except OSError as error:  # another process has bound the port too and listened first
        raise _no_listener(settings.host, port, error, flag) from error
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def bind(host: str, port: int, flag: str = "--port") -> socket.socket:
    """Bind the address before models are loaded, so that a port in use is reported at once.

    Clients can't connect until `run_server` listens. Raises `SettingsError`, naming the settings.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise _no_listener(host, port, error, flag) from error
    return listener


def _no_listener(host: str, port: int, error: OSError, flag: str) -> SettingsError:
    return SettingsError(
        f"can't listen on {host} port {port} (--host, {flag}): {error.strerror or error}"
    )

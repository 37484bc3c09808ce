"""Runs the application without a server, on the test's own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings

Work = Callable[[FastAPI, httpx.AsyncClient], Awaitable[None]]


def during(model_folder: Path, work: Work, **settings: object) -> None:
    """Run work with a client that calls the application, while its models are served."""
    values = {"models": model_folder, "runners": 1, "intra_op_threads": 1, "cache_dir": None}
    app = create_app(Settings.model_validate(values | settings))

    async def main() -> None:
        repository = app.state.runtime.repository
        repository.start()
        await asyncio.to_thread(repository.warm_up, threading.Event())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                await asyncio.wait_for(work(app, client), 60)
        finally:
            app.state.runtime.decode_pool.close()
            await asyncio.to_thread(repository.close, 30)

    asyncio.run(main())


async def until(come: Callable[[], object]) -> None:
    """Let the event loop run until a condition holds, within the time limit of `during`."""
    while not come():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)

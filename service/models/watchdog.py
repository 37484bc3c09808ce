"""Logs stuck or dead runners when it happens, not only when a probe asks."""

from __future__ import annotations

import asyncio

import structlog

from service.models.repository import Repository

_PERIOD_S = 1.0

_log = structlog.get_logger(__name__)


async def watch(repository: Repository) -> None:
    """Check once a second, until cancelled; log the beginning and the end of each problem.

    Stops when the device is lost: that is already logged, and the process is about to exit.
    """
    told: dict[str, str] = {}
    while True:
        await asyncio.sleep(_PERIOD_S)
        if repository.lost is not None:
            return
        found = repository.troubles()
        for where, trouble in found.items():
            if where not in told:
                told[where] = trouble
                _log.error("trouble", where=where, detail=trouble)
        for where in told.keys() - found.keys():
            _log.info("trouble_over", where=where, was=told.pop(where))

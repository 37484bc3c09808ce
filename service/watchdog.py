"""Tells the log of a runner that is stuck or dead, when it happens and not when a probe asks."""

from __future__ import annotations

import asyncio

import structlog

from service.repository import Repository

_PERIOD_S = 1.0

_log = structlog.get_logger(__name__)


async def watch(repository: Repository) -> None:
    """Look at all models once a second, until cancelled; log each trouble once, and its end."""
    told: dict[tuple[str, int], str] = {}
    while True:
        await asyncio.sleep(_PERIOD_S)
        for model in repository:
            key, trouble = (model.name, model.version), model.trouble()
            if trouble and key not in told:
                told[key] = trouble
                _log.error("trouble", model=model.name, version=model.version, detail=trouble)
            elif not trouble and key in told:
                _log.info(
                    "trouble_over", model=model.name, version=model.version, was=told.pop(key)
                )

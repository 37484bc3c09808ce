"""POST and DELETE /v1/models/{name}/rollout."""

from __future__ import annotations

from service.errors import UnknownModelError
from service.http.exchange import Exchange
from service.http.query import read_query
from service.http.schemas import RolloutQuery
from service.models.rollout import Mode, Plan


async def rollout(exchange: Exchange) -> None:
    """Begin to compare a version with the one that answers requests that name no version.

    A shadow also gets a share of the requests, when there is room, and its answers are not
    returned. A canary answers a share of them, and the other version is run beside it. Once enough
    is known, the version is promoted or rolled back, unless the service only reports.
    """
    query = read_query(exchange.query_string, RolloutQuery)
    name, versions = _known(exchange)
    plan = Plan(query.version or versions[-1], Mode(query.mode), query.percent)
    await exchange.respond_json(exchange.runtime.rollouts.begin(name, plan).described())


async def endrollout(exchange: Exchange) -> None:
    """End a rollout: the version that answered before answers everything again."""
    name, _ = _known(exchange)
    await exchange.respond_json(exchange.runtime.rollouts.end(name, "on request").described())


def _known(exchange: Exchange) -> tuple[str, list[int]]:
    """Return the name in the path and its versions. Raises `UnknownModelError`."""
    exchange.record.model = name = exchange.path_parameters["name"]
    versions = exchange.runtime.repository.models.known_versions(name)
    if not versions:
        raise UnknownModelError("there is no model of that name")
    return name, versions

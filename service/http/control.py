"""POST /v1/models/{name}/load and /unload."""

from __future__ import annotations

from dataclasses import asdict

from service.http.access import require_admin
from service.http.exchange import Exchange
from service.http.query import read_query
from service.http.schemas import ControlQuery


async def load(exchange: Exchange) -> None:
    """Serve a model's newest files, without interrupting what is served.

    Files that are served already and have not changed stay. One that has changed replaces the old
    one once it agrees with its golden cases. Versions whose files are gone are retired. Loads are
    carried out one at a time, even if the client disconnects.
    """
    name, parameters = _asked(exchange)
    await exchange.runtime.control.load(name, parameters)
    await _answer_with_index(exchange, name)


async def unload(exchange: Exchange) -> None:
    """Stop serving a model; requests that it has accepted are answered.

    It is served again when it is loaded, when its file changes in a watched folder, or at the next
    start.
    """
    name, parameters = _asked(exchange)
    await exchange.runtime.control.unload(name, parameters)
    await _answer_with_index(exchange, name)


def _asked(exchange: Exchange) -> tuple[str, dict[str, object]]:
    require_admin(exchange)
    query = read_query(exchange.query_string, ControlQuery)
    exchange.record.model = name = exchange.path_parameters["name"]
    return name, query.model_dump(exclude_none=True)


async def _answer_with_index(exchange: Exchange, name: str) -> None:
    index = await exchange.runtime.control.index()
    await exchange.respond_json({"models": [asdict(each) for each in index if each.name == name]})

"""GET /v1/summary: what the service is doing now."""

from __future__ import annotations

from service.http.exchange import Exchange


async def summary(exchange: Exchange) -> None:
    """Return rates, percentiles, batch sizes and queues, as the page at / shows them.

    They are of requests that run models, over the last minute at most (`window_s`), estimated from
    the metrics' histograms, and at most a second old. For monitoring, use /metrics.
    """
    await exchange.respond_json(exchange.runtime.live.current())

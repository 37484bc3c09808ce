"""A table of batch times that a test knows."""

from __future__ import annotations

from service.batching.latency import LatencyTable


class FixedTable(LatencyTable):
    """Has fixed times, learns nothing and is never doubted."""

    is_stale = False

    def __init__(self, times: list[float]) -> None:
        super().__init__()
        for size, seconds in enumerate(times, 1):
            super().measure(size, seconds)

    def observe(self, size: int, seconds: float) -> None:
        pass

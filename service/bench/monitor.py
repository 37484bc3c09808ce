"""Monitors the server under load: its CPU time, memory and batches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, NamedTuple

import psutil

from service.bench.exposition import (
    CPU_SECONDS,
    RESIDENT_BYTES,
    Exposition,
    batch_sizes,
    parse_exposition,
)
from service.bench.target import Target
from service.bench.wire import SerialClient

_SCRAPE_TIMEOUT_S = 10.0
_AFTER_END_S = 5.0  # how long the last scrape may take


class Usage(NamedTuple):
    """The server's usage at a time: `cpu_s` since its start, `rss_bytes` resident.

    For several processes both are sums, so shared pages count once per process.
    """

    at: float
    cpu_s: float
    rss_bytes: float


class Monitor:
    """Samples the server from /metrics or, with a pid, from /proc, which costs it nothing.

    The pid's descendants are included.
    """

    def __init__(self, target: Target, pid: int | None, model: str | None) -> None:
        self._target, self._pid, self._model = target, pid, model
        self._client = SerialClient(target, _SCRAPE_TIMEOUT_S)
        self._before, self._after = Exposition(), Exposition()
        self.usage: list[Usage] = []

    async def watch(self, start: float, end: float) -> None:
        """Sample at `start`, every second, and at `end` (in `time.perf_counter` seconds).

        Samples that are due during a slow scrape are skipped.
        """
        at = start
        while True:
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            last = at >= end
            if at == start or last or self._pid is None:
                scraped = await self._scrape(end + _AFTER_END_S)
                if at == start:
                    self._before = scraped
                self._after = scraped
                if self._pid is None:
                    self._note(scraped)
            if self._pid is not None:
                # On a thread, since it takes 0.1 ms per process and would delay arrivals.
                await asyncio.to_thread(self._note_processes, self._pid)
            if last:
                return
            at = min(max(at + 1.0, time.perf_counter()), end)

    async def close(self) -> None:
        """Drop the connection."""
        await self._client.close()

    def report(self) -> dict[str, Any]:
        """Return CPU seconds and cores used, peak memory in bytes, and batches by size."""
        cpu = cores = rss = None
        if len(self.usage) > 1:
            first, last = self.usage[0], self.usage[-1]
            cpu = last.cpu_s - first.cpu_s
            cores = cpu / (last.at - first.at)
        if self.usage:
            rss = max(usage.rss_bytes for usage in self.usage)
        return {
            "source": "/metrics" if self._pid is None else f"/proc/{self._pid}",
            "cpu_s": cpu,
            "cpu_cores": cores,
            "rss_peak_bytes": rss,
            "batch_sizes": self._batch_sizes(),
            "usage": [usage._asdict() for usage in self.usage],
        }

    def _batch_sizes(self) -> dict[str, int]:
        if not self._before.series:  # the first scrape failed, so earlier batches would be included
            return {}
        return batch_sizes(self._before, self._after, self._model)

    async def _scrape(self, latest: float) -> Exposition:
        """Return the server's metrics; empty if it has none or does not answer in time."""
        left = max(min(latest - time.perf_counter(), _SCRAPE_TIMEOUT_S), 0)
        answer = await self._client.exchange(self._target.get("/metrics"), left)
        return parse_exposition(answer.body.decode("utf-8", "replace"))

    def _note(self, scraped: Exposition) -> None:
        cpu = scraped.value(CPU_SECONDS)
        rss = scraped.value(RESIDENT_BYTES)
        if cpu is not None and rss is not None:
            self.usage.append(Usage(time.perf_counter(), cpu, rss))

    def _note_processes(self, root: int) -> None:
        found = _usages(root)
        if found:  # otherwise the server has ended, which the load will show
            cpu_s, rss = sum(usage.cpu_s for usage in found), sum(u.rss_bytes for u in found)
            self.usage.append(Usage(time.perf_counter(), cpu_s, rss))


def process_tree(root: int) -> list[psutil.Process]:
    """Return a process and its descendants; empty if it has ended."""
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(root: int) -> float:
    """Return the CPU time that a process and its descendants have used."""
    return sum(usage.cpu_s for usage in _usages(root))


def _usages(root: int) -> list[Usage]:
    found = []
    for process in process_tree(root):
        with contextlib.suppress(psutil.NoSuchProcess):
            # Includes the time of children that have ended and been waited for, so that the death
            # of a worker loses none.
            user, system, children_user, children_system, *_ = process.cpu_times()
            cpu_s = user + system + children_user + children_system
            found.append(Usage(time.perf_counter(), cpu_s, process.memory_info().rss))
    return found

"""Sends the load of a run: one process's share of it, or all of it from this process."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.bench.load import RIGHT, Load, Sample, run_closed, run_open
from service.bench.reference import Checker, Expected
from service.bench.shares import Share
from service.bench.summary import Window, latencies_ms
from service.bench.target import Target


@dataclass(frozen=True, slots=True)
class Work:
    """What all runs of a benchmark share, and every process of the generator needs."""

    target: Target
    requests: Sequence[bytes]
    expected: Sequence[Expected]
    tolerance: float
    timeout_s: float


class Outcome(NamedTuple):
    """A share's samples, and the CPU seconds that its process used in the window."""

    samples: list[Sample]
    cpu_s: float


class Tally(NamedTuple):
    """Progress in the last second or so."""

    right: int = 0
    errors: int = 0
    in_flight: int = 0
    p50_ms: float | None = None


class Generator(Protocol):
    """Sends one run after another, each by `open`, `run` and `finish`."""

    @property
    def processes(self) -> int:
        """Return how many processes send."""

    async def open(self, shares: Sequence[Share]) -> None:
        """Prepare a run with one share for each process."""

    async def run(self, start: float, window: Window) -> None:
        """Send from `start` on, and wait for the last answers."""

    def tally(self) -> Tally:
        """Return the recent progress; call it about once a second."""

    async def finish(self) -> list[Outcome]:
        """Drop requests in progress and return the outcome of each process that answers."""


class Sender:
    """One share, sent from this process."""

    def __init__(self, work: Work, share: Share) -> None:
        self._share, self._seen = share, 0
        self._cpu_s: list[float] = []
        self._load = Load(
            work.target,
            work.requests,
            Checker(work.expected, work.tolerance),
            connections=share.connections,
            timeout_s=work.timeout_s,
            seed=share.seed,
        )

    async def open(self) -> None:
        """Do slow preparations before the clock starts."""
        gc.collect()
        # Later collections would stall the load while they go through all samples.
        gc.disable()
        if self._share.arrivals is None:
            await self._load.open(self._share.connections)

    async def run(self, start: float, window: Window) -> None:
        """Send from `start` on, and wait for the last answers."""
        await asyncio.gather(self._send(start, window), self._note_cpu(window))

    async def _send(self, start: float, window: Window) -> None:
        if self._share.arrivals is None:
            await run_closed(self._load, self._share.connections, start, window.end)
        else:
            await run_open(self._load, self._share.arrivals, start)

    async def _note_cpu(self, window: Window) -> None:
        for at in window:
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            self._cpu_s.append(time.process_time())

    @property
    def answered(self) -> int:
        """Return the number of completed requests."""
        return len(self._load.samples)

    def tally(self) -> Tally:
        """Return the progress since the last call."""
        new, self._seen = self._load.samples[self._seen :], len(self._load.samples)
        right = [sample for sample in new if sample.kind in RIGHT]
        p50 = sorted(latencies_ms(right))[len(right) // 2] if right else None
        return Tally(len(right), len(new) - len(right), self._load.in_flight, p50)

    async def close(self) -> Outcome:
        """Drop requests in progress, which count neither as answered nor as lost."""
        outcome = Outcome([*self._load.samples], self._cpu_s_in_window())
        gc.enable()
        await self._load.close()
        return outcome

    def _cpu_s_in_window(self) -> float:
        """Return the CPU seconds used in the window, up to now if it has not ended."""
        started, *ended = self._cpu_s or [0.0, 0.0]
        return (ended[0] if ended else time.process_time()) - started


class OneProcess:
    """A generator that sends from this process."""

    processes = 1

    def __init__(self, work: Work) -> None:
        self._work = work
        self._sender: Sender

    async def open(self, shares: Sequence[Share]) -> None:
        """Prepare a run."""
        (share,) = shares
        self._sender = Sender(self._work, share)
        await self._sender.open()

    async def run(self, start: float, window: Window) -> None:
        """Send from `start` on, and wait for the last answers."""
        await self._sender.run(start, window)

    def tally(self) -> Tally:
        """Return the progress since the last call."""
        return self._sender.tally()

    async def finish(self) -> list[Outcome]:
        """Drop requests in progress and return the outcome."""
        return [await self._sender.close()]

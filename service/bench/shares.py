"""Divides a run among the processes of the load generator."""

from __future__ import annotations

from dataclasses import dataclass

from service.bench.arrivals import Arrivals, burst, poisson, read_trace
from service.bench.errors import OptionError
from service.bench.options import BenchOptions

_CORES_A_PROCESS, _MOST = 4, 8


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of a run.

    Without arrivals it is part of a closed loop, in which each connection is a client. `seed`
    determines the order of the images.
    """

    connections: int
    arrivals: Arrivals | None
    seed: int


def process_count(options: BenchOptions, cores: int) -> int:
    """Return --processes or, by default, what suits a machine with `cores` cores."""
    chosen = max(1, min(cores // _CORES_A_PROCESS, _MOST, options.most_connections))
    return options.processes or chosen


def schedule(options: BenchOptions, rate: float | None) -> tuple[Arrivals | None, float]:
    """Return the arrivals of an open loop, and the length of the run including its warm-up.

    Raises `OptionError` for a trace without arrivals in the measured time.
    """
    seconds = options.warm_up + options.duration
    if options.trace is not None:
        arrivals = read_trace(options.trace)
        if not ((arrivals >= options.warm_up) & (arrivals < seconds)).any():
            raise OptionError(
                f"--trace {options.trace}: nothing arrives between the end of --warm-up at "
                f"{options.warm_up:g} s and the end of --duration at {seconds:g} s"
            )
        seconds = min(seconds, float(arrivals[-1]) + 1e-3)
        return arrivals[arrivals < seconds], seconds
    if rate is None:
        return None, seconds
    make = burst if options.mode == "burst" else poisson
    return make(rate, seconds, options.seed), seconds


def deal(options: BenchOptions, arrivals: Arrivals | None, processes: int) -> list[Share]:
    """Return each process's share; arrivals alternate, so that each gets its part of a burst."""
    return [
        Share(connections, None if arrivals is None else arrivals[i::processes], options.seed + i)
        for i, connections in enumerate(split(options.most_connections, processes))
    ]


def split(total: int, parts: int) -> list[int]:
    """Split into integers that differ by at most one, larger ones first."""
    each, rest = divmod(total, parts)
    return [each + (i < rest) for i in range(parts)]

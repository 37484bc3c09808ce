"""How many batches run side by side, and on how many threads each: what there is, and what is best.

Threads that a session splits a batch over, and runners that each have a batch of their own, are two
uses of the same cores. Which is better depends on the model and the machine, so both are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from service.settings import OptimizeFor

_BETTER = 1.05
"""So much faster than one runner for each core must a layout be to be preferred.

A runner by itself waits for no other thread, whatever else the cores have to do; and on a machine
that is busy otherwise, a lead of a few per cent is noise.
"""

_STEADY = 1.2
_CPUS_FOR_A_MIDDLE_WAY = 4


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""What was measured: in a file of the cache that was tampered with, anything could stand."""


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Batches that run side by side, and the threads that work on one, its runner included."""

    runners: int
    intra_op_threads: int

    def __str__(self) -> str:
        """Return it as people read it, as in "2 runners x 1 thread"."""
        runners = f"{self.runners} runner{'s' * (self.runners > 1)}"
        return f"{runners} x {self.intra_op_threads} thread{'s' * (self.intra_op_threads > 1)}"


@dataclass(frozen=True, slots=True)
class Trial:
    """How a layout did: images a second of all its runners, and seconds of a lone image.

    Not `steady` is what a second try did not confirm: it should not be relied on.
    """

    parallelism: Parallelism
    images_per_s: Positive
    lone_s: Positive
    steady: bool = True


def is_steady(results: Sequence[float]) -> bool:
    """Return whether results of the same differ so little that nothing else was at work."""
    return max(results) < _STEADY * min(results)


def candidates(cpus: int, models: int, *, runners: int = 0, threads: int = 0) -> list[Parallelism]:
    """List the layouts that are worth a try; first the one with a runner for each CPU.

    Each gives every CPU one thread: a runner for each, one runner with all of them, and from 4 CPUs
    on a middle way. `runners` and `threads` other than 0 are given; then there is nothing to try,
    since what fills the CPUs follows from either.
    """
    if runners:
        return [Parallelism(runners, threads or _threads_beside(runners, cpus, models))]
    if threads:
        fitting = [r for r in range(1, cpus + 1) if _threads_beside(r, cpus, models) >= threads]
        return [Parallelism(max(fitting, default=1), threads)]
    ways = [cpus, 1] if cpus < _CPUS_FOR_A_MIDDLE_WAY else [cpus, 1, cpus // 2]
    options = [Parallelism(way, _threads_beside(way, cpus, models)) for way in ways]
    # With many models the middle way may leave no thread over, and be half of the first.
    return [
        parallelism
        for parallelism in dict.fromkeys(options)
        if parallelism.runners == cpus or parallelism.intra_op_threads > 1
    ]


def _threads_beside(runners: int, cpus: int, models: int) -> int:
    """Return the intra-op threads with which so many runners fill the CPUs and no more.

    A runner works on its batch itself. The threads that help are those of a session, which all
    runners on that session share; each model has a session, and so many of them can run at once.
    """
    return max(1, 1 + (cpus - runners) // min(models, runners))


def choose(trials: Sequence[Trial], goal: OptimizeFor) -> Parallelism:
    """Pick the best layout for a goal; the first of `trials` is the one to beat in throughput."""
    if goal == "latency":
        return min(trials, key=lambda trial: trial.lone_s).parallelism
    first, best = trials[0], max(trials, key=lambda trial: trial.images_per_s)
    clearly = all(trial.steady for trial in trials)
    return (
        best if clearly and best.images_per_s > first.images_per_s * _BETTER else first
    ).parallelism

"""How many batches run in parallel and on how many threads each: the candidates, and the best.

Several threads that share one batch and several runners with a batch each are two uses of the same
cores. Which is better depends on the model and the machine, so both are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from service.settings import OptimizeFor

_BETTER = 1.05
"""Another candidate has to be this much faster than one runner per core to be preferred.

A runner with one thread waits for no other, whatever else the cores have to do; and on a busy
machine a lead of a few per cent is noise.
"""

_STEADY = 1.2
_CPUS_FOR_HALVES = 4


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
    """A candidate's figures: images per second of all its runners, and seconds for a lone image.

    Not `steady`: a second try did not confirm them, so they should not be relied on.
    """

    parallelism: Parallelism
    images_per_s: Positive
    lone_s: Positive
    steady: bool = True


def is_steady(results: Sequence[float]) -> bool:
    """Return whether results of the same differ so little that nothing else was at work."""
    return max(results) < _STEADY * min(results)


def candidates(cpus: int, models: int, *, runners: int = 0, threads: int = 0) -> list[Parallelism]:
    """List the candidates that are worth measuring; first the one with a runner per CPU.

    Each gives every CPU one thread: a runner per CPU, one runner with all of them, and from 4 CPUs
    on half of each. `runners` and `threads` other than 0 are fixed by the user; then one candidate
    is left, since what fills the CPUs follows from either.
    """
    if runners:
        return [Parallelism(runners, threads or _threads_beside(runners, cpus, models))]
    if threads:
        fitting = [r for r in range(1, cpus + 1) if _threads_beside(r, cpus, models) >= threads]
        return [Parallelism(max(fitting, default=1), threads)]
    counts = [cpus, 1] if cpus < _CPUS_FOR_HALVES else [cpus, 1, cpus // 2]
    options = [Parallelism(count, _threads_beside(count, cpus, models)) for count in counts]
    # With many models, half as many runners may have no second thread each: half of the first.
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
    """Pick the best for a goal; the first of `trials` is the one to beat in throughput."""
    if goal == "latency":
        return min(trials, key=lambda trial: trial.lone_s).parallelism
    first, best = trials[0], max(trials, key=lambda trial: trial.images_per_s)
    clearly = all(trial.steady for trial in trials)
    return (
        best if clearly and best.images_per_s > first.images_per_s * _BETTER else first
    ).parallelism

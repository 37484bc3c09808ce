"""How many batches run in parallel, and on how many threads each: the candidates, and the best.

Several threads on one batch and several runners with a batch each are two ways of using the same
cores. Which is better depends on the model and the machine, so both are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from service.settings import OptimizeFor

_BETTER = 1.05
"""Another candidate must be this much faster than one runner per core to be preferred.

A runner with one thread never waits for another thread, whatever else the cores are doing; and on a
busy machine a lead of a few per cent is noise.
"""

_STEADY = 1.2
_CPUS_FOR_HALVES = 4


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A measured figure, validated since a cache file may have been tampered with."""


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How many batches run in parallel, and the threads for each, including its runner."""

    runners: int
    intra_op_threads: int

    def __str__(self) -> str:
        """Return a readable form, such as "2 runners x 1 thread"."""
        runners = f"{self.runners} runner{'s' * (self.runners > 1)}"
        return f"{runners} x {self.intra_op_threads} thread{'s' * (self.intra_op_threads > 1)}"


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate's figures: images per second of all its runners, and seconds for a lone image.

    If not `steady`, a second measurement did not confirm them, so they are unreliable.
    """

    parallelism: Parallelism
    images_per_s: Positive
    lone_s: Positive
    steady: bool = True


def is_steady(results: Sequence[float]) -> bool:
    """Return whether repeated results differ too little for anything else to have interfered."""
    return max(results) < _STEADY * min(results)


def candidates(cpus: int, models: int, *, runners: int = 0, threads: int = 0) -> list[Parallelism]:
    """List the candidates worth measuring, first the one with a runner per CPU.

    Each gives every CPU one thread: a runner per CPU, one runner on all CPUs, and with 4 CPUs or
    more a runner per two CPUs. `runners` and `threads` other than 0 are fixed by the user; then
    there is a single candidate, since the other number follows from the CPUs.
    """
    if runners:
        return [Parallelism(runners, threads or _threads_beside(runners, cpus, models))]
    if threads:
        fitting = [r for r in range(1, cpus + 1) if _threads_beside(r, cpus, models) >= threads]
        return [Parallelism(max(fitting, default=1), threads)]
    counts = [cpus, 1] if cpus < _CPUS_FOR_HALVES else [cpus, 1, cpus // 2]
    options = [Parallelism(count, _threads_beside(count, cpus, models)) for count in counts]
    # With many models, half as many runners may not get a second thread each, which only halves the
    # first candidate.
    return [
        parallelism
        for parallelism in dict.fromkeys(options)
        if parallelism.runners == cpus or parallelism.intra_op_threads > 1
    ]


def _threads_beside(runners: int, cpus: int, models: int) -> int:
    """Return the intra-op threads with which `runners` fill the CPUs, and no more.

    A runner works on its batch itself. Its helper threads belong to a session and are shared by all
    runners on that session; each model has one session, and several of them can run at once.
    """
    return max(1, 1 + (cpus - runners) // min(models, runners))


def choose(trials: Sequence[Trial], goal: OptimizeFor) -> Parallelism:
    """Return the best for a goal; for throughput, the first of `trials` is the one to beat."""
    if goal == "latency":
        return min(trials, key=lambda trial: trial.lone_s).parallelism
    first, best = trials[0], max(trials, key=lambda trial: trial.images_per_s)
    clearly = all(trial.steady for trial in trials)
    return (
        best if clearly and best.images_per_s > first.images_per_s * _BETTER else first
    ).parallelism

"""Chooses the parallelism: from the settings, from the cache, or by measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import BaseModel

from service.contract import parse_contract
from service.cpus import cpu_count
from service.engine.base import Opener
from service.engine.providers import Provider
from service.errors import first_line
from service.golden import golden_pattern
from service.settings import OptimizeFor, Settings
from service.tuning.cache import ProfileCache
from service.tuning.fingerprint import fingerprint_of
from service.tuning.measure import ReopenableEngine, measure
from service.tuning.parallelism import Parallelism, Trial, candidates, choose

_log = structlog.get_logger(__name__)

Source = Literal["settings", "measured", "cache", "default"]

_GPU_BATCHES = 2
"""Batches in progress on a GPU: one is computed while the next is stacked and copied."""


def _rounded(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


@dataclass(frozen=True, slots=True)
class ParallelismChoice:
    """The parallelism in use, and why; `trials` is empty if nothing was measured."""

    parallelism: Parallelism
    goal: OptimizeFor
    source: Source
    trials: Sequence[Trial] = ()
    note: str = ""
    """The reason, if there are no trials."""

    @property
    def why(self) -> str:
        """Return the reason in one line, with the figures of each trial."""
        if self.note:
            return self.note
        when = "measured by an earlier start" if self.source == "cache" else "measured now"
        figures = ", ".join(
            f"{trial.parallelism} {_rounded(trial.images_per_s)} images/s and a lone image in "
            f"{trial.lone_s * 1000:.3g} ms"
            for trial in self.trials
        )
        return f"{when}: {figures}; {self.parallelism} {self._merit()}"

    @property
    def best(self) -> Trial:
        """Return the figures of the parallelism in use, where something was measured."""
        return next(trial for trial in self.trials if trial.parallelism == self.parallelism)

    def _merit(self) -> str:
        if self.goal == "latency":
            return "answers a lone image fastest"
        if self.parallelism == max(self.trials, key=lambda trial: trial.images_per_s).parallelism:
            return "has the highest throughput"
        return "is the default unless another is clearly and steadily faster"

    def described(self) -> dict[str, Any]:
        """Return a description for /health and the log."""
        return {
            "runners": self.parallelism.runners,
            "intra_op_threads": self.parallelism.intra_op_threads,
            "goal": self.goal,
            "source": self.source,
            "why": self.why,
            "candidates": [
                {
                    "runners": trial.parallelism.runners,
                    "intra_op_threads": trial.parallelism.intra_op_threads,
                    "images_per_s": round(trial.images_per_s, 1),
                    "lone_image_ms": round(trial.lone_s * 1000, 3),
                    "steady": trial.steady,
                }
                for trial in self.trials
            ],
        }


class _Trials(BaseModel):
    """The cached form: the figures, not the choice, so that they serve either goal."""

    trials: list[Trial]


def autotune(
    model_file: Path,
    opener: Opener,
    engines: ReopenableEngine,
    settings: Settings,
    *,
    models: int,
    cache: ProfileCache,
    compared: bool = False,
) -> ParallelismChoice:
    """Choose the parallelism for `models` models, measuring the one that `engines` opens.

    If it is to be `compared` with other providers, it is measured even if nothing is left to
    choose. Raises a `StartupError` if the model file is refused; a model that can't run is left for
    the warm-up to report.
    """
    given, note = _given(settings)
    provider = engines.rival or opener.expected()
    if provider.own_device:
        threads = settings.intra_op_threads or 1
        provider = engines.with_threads(threads).provider
        if provider.own_device:
            parallelism = Parallelism(settings.runners or _GPU_BATCHES, threads)
            note = note or "on a GPU, one batch is computed while the next is copied"
            return ParallelismChoice(parallelism, settings.optimize_for, given, note=note)
    options = candidates(
        cpu_count(), models, runners=settings.runners, threads=settings.intra_op_threads
    )
    if len(options) > 1:
        return _tried(model_file, engines, settings, options, cache, provider)
    note = note or "one core leaves nothing to choose"
    trials: Sequence[Trial] = ()
    if compared:
        trials = _tried(model_file, engines, settings, options, cache, provider).trials
    return ParallelismChoice(options[0], settings.optimize_for, given, trials, note)


def _given(settings: Settings) -> tuple[Source, str]:
    flags = {"--runners": settings.runners, "--intra-op-threads": settings.intra_op_threads}
    given = [flag for flag, value in flags.items() if value]
    if not given:
        return "default", ""
    rest = "" if len(given) == len(flags) else "; the other follows from the number of cores"
    return "settings", f"set by {' and '.join(given)}{rest}"


def _tried(
    model_file: Path,
    engines: ReopenableEngine,
    settings: Settings,
    options: Sequence[Parallelism],
    cache: ProfileCache,
    provider: Provider,
) -> ParallelismChoice:
    goal, max_batch = settings.optimize_for, settings.max_batch or provider.max_batch
    fingerprint = partial(
        fingerprint_of,
        model_file,
        provider,
        max_batch=max_batch,
        precision=settings.precision,
        options=[[parallelism.runners, parallelism.intra_op_threads] for parallelism in options],
    )
    kept = cache.read("parallelism", fingerprint, _Trials)
    if kept is not None and [trial.parallelism for trial in kept.trials] == list(options):
        return ParallelismChoice(choose(kept.trials, goal), goal, "cache", kept.trials)
    engine = engines.with_threads(options[0].intra_op_threads)
    contract = parse_contract(engine.metadata, file=str(model_file))
    image = golden_pattern(1, *contract.preprocessing.input_size)
    try:
        trials = measure(options, engines, image, max_batch=max_batch)
    except Exception as error:  # noqa: BLE001 - the warm-up will meet it too, and report it
        _log.warning("parallelism_not_measured", detail=str(error))
        return ParallelismChoice(
            options[0], goal, "default", note=f"not measured: {first_line(error)}"
        )
    if all(trial.steady for trial in trials):
        cache.write("parallelism", fingerprint, _Trials(trials=list(trials)))
    else:
        _log.info(
            "parallelism_not_cached",
            path=str(model_file),
            provider=provider.name,
            detail="two measurements differ; the next start measures again",
        )
    return ParallelismChoice(choose(trials, goal), goal, "measured", trials)

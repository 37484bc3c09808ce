"""Chooses the layout: as the settings say, as the cache knows, or by trying."""

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
from service.errors import first_line
from service.golden import golden_pattern
from service.settings import CPU_MAX_BATCH, LayoutGoal, Settings
from service.tuning.cache import ProfileCache
from service.tuning.facts import facts_of
from service.tuning.layout import Layout, Trial, candidates, choose
from service.tuning.trials import OneEngine, try_out

_log = structlog.get_logger(__name__)

Source = Literal["settings", "measured", "cache", "default"]

_GPU_BATCHES = 2
"""Batches under way on a GPU: one is computed, the next is stacked and copied."""


def _rounded(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The layout that is used, and why: `trials` are empty where there was nothing to try."""

    layout: Layout
    goal: LayoutGoal
    source: Source
    trials: Sequence[Trial] = ()
    note: str = ""
    """Why, where that does not follow from trials."""

    @property
    def why(self) -> str:
        """Say in a line what decided, with the figures of each that was tried."""
        if not self.trials:
            return self.note
        when = "measured by an earlier start" if self.source == "cache" else "measured now"
        figures = ", ".join(
            f"{trial.layout} {_rounded(trial.images_per_s)} images/s and a lone image in "
            f"{trial.lone_s * 1000:.3g} ms"
            for trial in self.trials
        )
        return f"{when}: {figures}; {self.layout} {self._merit()}"

    def _merit(self) -> str:
        if self.goal == "latency":
            return "answers a lone image soonest"
        if self.layout == max(self.trials, key=lambda trial: trial.images_per_s).layout:
            return "gives the most images a second"
        return "is taken as long as no other is clearly and steadily faster"

    def described(self) -> dict[str, Any]:
        """Give it as /health and the log show it."""
        return {
            "runners": self.layout.runners,
            "intra_op_threads": self.layout.intra_op_threads,
            "goal": self.goal,
            "source": self.source,
            "why": self.why,
            "candidates": [
                {
                    "runners": trial.layout.runners,
                    "intra_op_threads": trial.layout.intra_op_threads,
                    "images_per_s": round(trial.images_per_s, 1),
                    "lone_image_ms": round(trial.lone_s * 1000, 3),
                    "steady": trial.steady,
                }
                for trial in self.trials
            ],
        }


class _Trials(BaseModel):
    """The cache's form. Figures and no choice, so that they serve either goal."""

    trials: list[Trial]


def choose_layout(
    model_file: Path,
    opener: Opener,
    engines: OneEngine,
    settings: Settings,
    *,
    models: int,
    cache: ProfileCache,
) -> Choice:
    """Choose the layout for `models` models by the one that is opened by `engines`.

    Raises the `StartupError` with which a model file is refused; a model that can't run is left to
    the warm-up to tell.
    """
    given, note = _given(settings)
    if opener.may_use_gpu():
        threads = settings.intra_op_threads or 1
        if engines.with_threads(threads).provider != "cpu":
            layout = Layout(settings.runners or _GPU_BATCHES, threads)
            note = note or "on a GPU one batch is computed while the next is copied"
            return Choice(layout, settings.layout_goal, given, note=note)
    layouts = candidates(
        cpu_count(), models, runners=settings.runners, threads=settings.intra_op_threads
    )
    if len(layouts) == 1:
        note = note or "one core leaves nothing to choose"
        return Choice(layouts[0], settings.layout_goal, given, note=note)
    return _tried(model_file, engines, settings, layouts, cache)


def _given(settings: Settings) -> tuple[Source, str]:
    flags = {"--runners": settings.runners, "--intra-op-threads": settings.intra_op_threads}
    given = [flag for flag, value in flags.items() if value]
    if not given:
        return "default", ""
    rest = "" if len(given) == len(flags) else "; the other follows from the cores"
    return "settings", f"set by {' and '.join(given)}{rest}"


def _tried(
    model_file: Path,
    engines: OneEngine,
    settings: Settings,
    layouts: Sequence[Layout],
    cache: ProfileCache,
) -> Choice:
    goal = settings.layout_goal
    facts = partial(
        facts_of,
        model_file,
        "cpu",
        max_batch=settings.max_batch or CPU_MAX_BATCH,
        layouts=[[layout.runners, layout.intra_op_threads] for layout in layouts],
    )
    kept = cache.read("layout", facts, _Trials)
    if kept is not None and [trial.layout for trial in kept.trials] == list(layouts):
        return Choice(choose(kept.trials, goal), goal, "cache", kept.trials)
    engine = engines.with_threads(layouts[0].intra_op_threads)
    contract = parse_contract(engine.metadata, file=str(model_file))
    image = golden_pattern(1, contract.preprocessing.crop)
    try:
        trials = try_out(layouts, engines, image, max_batch=settings.max_batch or CPU_MAX_BATCH)
    except Exception as error:  # noqa: BLE001 - the warm-up will meet it too, and tell of it
        _log.warning("layout_not_measured", detail=str(error))
        return Choice(layouts[0], goal, "default", note=f"not measured: {first_line(error)}")
    if all(trial.steady for trial in trials):
        cache.write("layout", facts, _Trials(trials=list(trials)))
    else:
        _log.info("layout_not_kept", detail="two tries differ; the next start measures again")
    return Choice(choose(trials, goal), goal, "measured", trials)

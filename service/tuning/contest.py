"""Chooses what computes a model file on the CPU: ONNX Runtime, or a provider measured to beat it.

Each is measured with its own parallelism: one may be fastest with all cores on one batch, the other
with one batch per core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from service.contract import ModelContract, parse_contract
from service.engine.base import Engine, Opener
from service.engine.providers import Provider
from service.errors import ProviderError, first_line
from service.golden import check_golden
from service.settings import Settings
from service.tuning.autotune import ParallelismChoice, autotune
from service.tuning.cache import ProfileCache
from service.tuning.measure import ReopenableEngine

_log = structlog.get_logger(__name__)

_CLEARLY = 1.1
"""How much faster a rival must be than ONNX Runtime, which files are verified with."""


@dataclass(frozen=True, slots=True)
class Won:
    """The engine to serve with, opened with its parallelism.

    `faster_by` is its speed relative to the CPU's own provider; None unless a rival won.
    """

    engine: Engine
    parallelism: ParallelismChoice
    faster_by: float | None = None
    why: str = ""


def fastest(
    model_file: Path, opener: Opener, settings: Settings, *, models: int, cache: ProfileCache
) -> Won:
    """Open a file on its fastest provider; `models` is how many are served in all.

    Raises a `StartupError` if the file is refused.
    """
    engines = ReopenableEngine(opener, model_file)
    try:
        choice = autotune(model_file, opener, engines, settings, models=models, cache=cache)
        engine = engines.with_threads(choice.parallelism.intra_op_threads)
        if engine.provider.own_device:
            return Won(engine, choice)
        contract = parse_contract(engine.metadata, file=str(model_file))
        rivals = opener.rivals(contract)
        if rivals and not choice.trials:
            choice = autotune(
                model_file, opener, engines, settings, models=models, cache=cache, compared=True
            )
        if not (rivals and choice.trials):
            return Won(engine, choice)
        contest = _Contest(model_file, opener, settings, models, cache, contract)
        why = ""
        for rival in rivals:
            engines.close()  # there may not be enough memory for two
            won, why = contest.against(rival, choice)
            if won is not None:
                return won
        return Won(engines.with_threads(choice.parallelism.intra_op_threads), choice, why=why)
    except BaseException:
        engines.close()
        raise


@dataclass(frozen=True, slots=True)
class _Contest:
    model_file: Path
    opener: Opener
    settings: Settings
    models: int
    cache: ProfileCache
    contract: ModelContract

    def against(self, rival: Provider, choice: ParallelismChoice) -> tuple[Won | None, str]:
        """Measure a rival or look up its figures; return it if it won, and why or why not."""
        engines, won = ReopenableEngine(self.opener, self.model_file, rival), None
        try:
            theirs = autotune(
                self.model_file, self.opener, engines, self.settings,
                models=self.models, cache=self.cache, compared=True,
            )  # fmt: skip
            if not theirs.trials:
                return None, f"{rival.name} could not be measured"
            faster_by = _score(theirs) / _score(choice)
            why = f"{rival.name} {_figure(theirs)}, the CPU's own provider {_figure(choice)}"
            if faster_by >= _CLEARLY:
                won = Won(self._agreeing(engines, theirs), theirs, round(faster_by, 2), why)
        except Exception as error:  # noqa: BLE001 - however a rival fails, the CPU's own works
            detail = first_line(error)
            _log.warning(f"{rival.name}_not_taken", path=str(self.model_file), detail=detail)
            return None, f"{rival.name} was not taken: {detail}"
        finally:
            if won is None:
                engines.close()
        return won, why

    def _agreeing(self, engines: ReopenableEngine, choice: ParallelismChoice) -> Engine:
        """Return the engine; raises `ProviderError` if its golden cases disagree."""
        engine = engines.with_threads(choice.parallelism.intra_op_threads)
        if failures := check_golden(engine, self.contract, 1).failures:
            raise ProviderError("; ".join(failures))
        return engine


def _score(choice: ParallelismChoice) -> float:
    """Return the figure that the goal maximises."""
    trial = choice.best
    return 1 / trial.lone_s if choice.goal == "latency" else trial.images_per_s


def _figure(choice: ParallelismChoice) -> str:
    if choice.goal == "latency":
        return f"answers a lone image in {choice.best.lone_s * 1000:.3g} ms"
    return f"gives {choice.best.images_per_s:.3g} images/s"

"""All rollouts: begins them, counts what comes of them, and promotes or rolls back."""

from __future__ import annotations

from typing import Any

import structlog

from service.errors import ModelSelectionError, RolloutError
from service.metrics import Metrics
from service.models.model import ServedModel
from service.models.repository import Repository
from service.models.rollout import Judge, Mode, Plan, Rollout, Stage, Verdict
from service.settings import Settings

_MOST_CANARY_PERCENT = 99  # the rest is for the version that it is compared with

_log = structlog.get_logger(__name__)


class Rollouts:
    """All rollouts, by model. Use it on the event loop on which the models answer."""

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics) -> None:
        """Begin those of the settings. Raises `ModelSelectionError`."""
        self._repository, self._settings, self._metrics = repository, settings, metrics
        self._by_name: dict[str, Rollout] = {}
        repository.on_change = self.check
        for name, text in settings.rollout.items():
            try:
                self.begin(name, Plan.parse(text))
            except (RolloutError, ValueError) as error:
                raise ModelSelectionError(f"--rollout {name}={text}: {error}") from error

    def of(self, name: str) -> Rollout | None:
        """Return the last rollout of a model."""
        return self._by_name.get(name)

    def described(self) -> list[dict[str, Any]]:
        """Return all rollouts, as clients see them."""
        return [self._by_name[name].described() for name in sorted(self._by_name)]

    def begin(self, name: str, plan: Plan) -> Rollout:
        """Begin a rollout; raises `RolloutError` if one runs, or there is nothing to compare."""
        last, models = self._by_name.get(name), self._repository.models
        if plan.mode is Mode.CANARY and plan.percent > _MOST_CANARY_PERCENT:
            raise RolloutError(
                f"a canary answers at most {_MOST_CANARY_PERCENT} percent of the requests, got "
                f"{plan.percent}"
            )
        if last is not None and last.is_running():
            raise RolloutError(f"version {last.plan.candidate} of {name} is being rolled out")
        shares = {m.version: models.share(m) for m in models.loaded if m.name == name}
        if plan.candidate not in shares:
            raise RolloutError(f"model {name} has no version {plan.candidate} loaded")
        del shares[plan.candidate]
        if not shares:
            raise RolloutError(f"model {name} has no other version loaded to compare with")
        incumbent = max(shares, key=lambda version: (shares[version], version))
        stamps = {m.version: m.stamp for m in models.loaded if m.name == name}
        rollout = Rollout(name, plan, incumbent, Judge.of(self._settings), stamps)
        self._by_name[name] = rollout
        self._apply(rollout)
        _log.info("rollout_begun", model=name, version=plan.candidate, incumbent=incumbent,
                  mode=plan.mode, percent=plan.percent)  # fmt: skip
        return rollout

    def end(self, name: str, reason: str) -> Rollout:
        """Roll a candidate back. Raises `RolloutError` if no rollout of the model runs."""
        rollout = self._by_name.get(name)
        if rollout is None or not rollout.is_running():
            raise RolloutError(f"no version of {name} is being rolled out")
        self._move(rollout, Stage.ROLLED_BACK, reason)
        return rollout

    def check(self, name: str) -> None:
        """End a model's rollout if a version that it compares was replaced or is gone."""
        rollout, models = self._by_name.get(name), self._repository.models
        if rollout is None or not rollout.is_running():
            return
        for version in (rollout.incumbent, rollout.plan.candidate):
            model = models.get(name, version)
            if not (isinstance(model, ServedModel) and rollout.is_about(model)):
                self.end(name, f"version {version} is not served as it was any more")
                return

    def note_drop(self, rollout: Rollout) -> None:
        """Count a comparison for which there was no room."""
        rollout.dropped += 1
        self._metrics.count_comparison(rollout.name, rollout.plan.candidate, "dropped")

    def note_time(self, rollout: Rollout, seconds: float) -> None:
        """Count how long an answer of the candidate took."""
        is_slow = rollout.judge.note_time(seconds)
        speed = "slow" if is_slow else "fast"
        self._metrics.count_rollout_answer(rollout.name, rollout.plan.candidate, speed)
        self._decide(rollout)

    def note_comparison(self, rollout: Rollout, *, agreed: bool) -> None:
        """Count a comparison, and decide if that is now possible."""
        rollout.judge.agreement.note(one=agreed)
        outcome = "agreed" if agreed else "differed"
        self._metrics.count_comparison(rollout.name, rollout.plan.candidate, outcome)
        self._decide(rollout)

    def _decide(self, rollout: Rollout) -> None:
        if not rollout.is_running() or rollout.verdict is not Verdict.UNDECIDED:
            return
        rollout.verdict = rollout.judge.verdict
        if rollout.verdict is Verdict.UNDECIDED:
            return
        _log.info("rollout_verdict", **rollout.described())
        if self._settings.rollout_action == "act":
            is_good = rollout.verdict is Verdict.GOOD
            self._move(rollout, Stage.PROMOTED if is_good else Stage.ROLLED_BACK, "by its verdict")

    def _move(self, rollout: Rollout, stage: Stage, reason: str) -> None:
        rollout.stage, rollout.reason = stage, reason
        self._apply(rollout)
        _log.info(
            "rollout_ended", model=rollout.name, version=rollout.plan.candidate, stage=stage,
            detail=reason,
        )  # fmt: skip

    def _apply(self, rollout: Rollout) -> None:
        candidate = rollout.plan.candidate
        is_promoted = rollout.stage is Stage.PROMOTED
        if is_promoted and self._repository.models.would_answer(rollout.name, candidate):
            self._repository.set_policy(rollout.name, None)  # newer ones then follow, as before
        else:
            self._repository.set_policy(rollout.name, rollout.policy())
        for model in self._repository.models.loaded:
            if model.name == rollout.name:
                model.held = rollout.is_running() and rollout.concerns(model)
        self._metrics.show_rollout(rollout.name, rollout.plan.candidate, rollout.stage)

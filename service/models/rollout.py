"""Rollouts: a candidate version is compared with the one that answers, and takes over or not.

    shadow   the candidate also gets a share of the requests, but its answers are not returned
    canary   the candidate answers a share of the requests, and the other version is run beside it

An agreement is the same most probable label. It and the share of slow answers are bounded by
confidence sequences (`sequential.py`), so a decision may be made as soon as the bounds allow it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from service.models.model import ServedModel
from service.models.sequential import ConfidenceSequence
from service.models.stamps import Stamp
from service.settings import Settings
from service.versions import VersionPolicy, draw

_PLAN = re.compile(r"([1-9][0-9]{0,8}):(shadow|canary):([1-9][0-9]?|100)")


class Mode(StrEnum):
    """What happens to the candidate's answers."""

    SHADOW = "shadow"
    CANARY = "canary"


class Verdict(StrEnum):
    """What is known of a candidate."""

    UNDECIDED = "undecided"
    GOOD = "good"
    BAD = "bad"


class Stage(StrEnum):
    """Where a rollout is."""

    RUNNING = "running"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class Plan:
    """A candidate version and its share of the requests, in percent."""

    candidate: int
    mode: Mode
    percent: int

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read `3:canary:10`. Raises `ValueError`, saying what is allowed."""
        found = _PLAN.fullmatch(text)
        if found is None:
            raise ValueError(
                "must be VERSION:shadow:PERCENT or VERSION:canary:PERCENT, with 1 to 100 percent"
            )
        return cls(int(found[1]), Mode(found[2]), int(found[3]))


@dataclass(slots=True)
class Judge:
    """Judges a candidate: it must agree often enough, and seldom be slow.

    Each of the two decisions is wrong with at most half of `error`. A `slow_ms` of 0 leaves speed
    out. Assumed is that requests are alike over time: the probability that the versions agree on a
    request, and that an answer is slow, stays the same while the rollout runs.
    """

    min_agreement: float
    max_slow_share: float
    slow_ms: float
    error: float
    agreement: ConfidenceSequence = field(init=False)
    slowness: ConfidenceSequence = field(init=False)

    def __post_init__(self) -> None:
        self.agreement = ConfidenceSequence(self.error / 2)
        self.slowness = ConfidenceSequence(self.error / 2)

    @classmethod
    def of(cls, settings: Settings) -> Judge:
        """Return a judge with the limits of the settings."""
        return cls(
            settings.rollout_min_agreement,
            settings.rollout_max_slow_share,
            settings.rollout_slow_ms,
            settings.rollout_error,
        )

    def note_time(self, seconds: float) -> bool:
        """Count an answer of the candidate; return whether it was slow."""
        is_slow = bool(self.slow_ms) and seconds * 1000 > self.slow_ms
        self.slowness.note(one=is_slow)
        return is_slow

    @property
    def verdict(self) -> Verdict:
        """Return what the bounds say at present."""
        if self.agreement.is_below(self.min_agreement):
            return Verdict.BAD
        if self.slow_ms and self.slowness.is_at_least(self.max_slow_share):
            return Verdict.BAD
        is_quick = not self.slow_ms or self.slowness.is_below(self.max_slow_share)
        if is_quick and self.agreement.is_at_least(self.min_agreement):
            return Verdict.GOOD
        return Verdict.UNDECIDED


@dataclass(slots=True)
class Rollout:
    """One rollout of a model; at most one runs at a time."""

    name: str
    plan: Plan
    incumbent: int
    judge: Judge
    stamps: Mapping[int, Stamp]
    """Of both versions' files: what is known of one says nothing about its successor."""
    stage: Stage = Stage.RUNNING
    verdict: Verdict = Verdict.UNDECIDED
    """The first that was not undecided; it stays."""
    reason: str = ""
    dropped: int = 0
    """Comparisons that were left out for want of room."""

    def partner_of(self, model: ServedModel, request_id: str) -> int | None:
        """Return the version to compare a request's answer with, or None if it isn't to be."""
        if self.plan.mode is Mode.CANARY:
            return self.incumbent if model.version == self.plan.candidate else None
        is_drawn = draw(f"shadow of {self.name}", request_id) * 100 < self.plan.percent
        return self.plan.candidate if model.version == self.incumbent and is_drawn else None

    def is_running(self) -> bool:
        """Return whether answers are still compared."""
        return self.stage is Stage.RUNNING

    def concerns(self, model: ServedModel) -> bool:
        """Return whether a version is one of the two that are compared."""
        return model.version in (self.incumbent, self.plan.candidate)

    def is_about(self, model: ServedModel) -> bool:
        """Return whether a version is still served of the file that it was when this began."""
        return self.stamps.get(model.version) == model.stamp

    def policy(self) -> VersionPolicy:
        """Return which version answers."""
        if self.stage is Stage.PROMOTED:
            return VersionPolicy(MappingProxyType({self.plan.candidate: 1}))
        if self.is_running() and self.plan.mode is Mode.CANARY:
            percent = self.plan.percent
            shares = {self.incumbent: 100 - percent, self.plan.candidate: percent}
            return VersionPolicy(MappingProxyType(shares))
        return VersionPolicy(MappingProxyType({self.incumbent: 1}))

    def described(self) -> dict[str, Any]:
        """Return what clients see."""
        judge = self.judge
        return {
            "model": self.name,
            "candidate": self.plan.candidate,
            "incumbent": self.incumbent,
            "mode": self.plan.mode,
            "percent": self.plan.percent,
            "stage": self.stage,
            "verdict": self.verdict,
            "reason": self.reason,
            "agreement": _described(judge.agreement) | {"at_least": judge.min_agreement},
            "slow": _described(judge.slowness)
            | {"at_most": judge.max_slow_share, "slower_than_ms": judge.slow_ms},
            "dropped": self.dropped,
        }


def _described(sequence: ConfidenceSequence) -> dict[str, Any]:
    lower, upper = (round(bound, 4) for bound in sequence.interval())
    return {"answers": sequence.observations, "count": sequence.ones, "bounds": [lower, upper]}

"""Runs an answered request's image on another version too, and compares, when there is room.

Whoever waits for an answer has it before this begins. It begins only if nothing else waits or runs,
at low priority, and a few at a time; whatever has no room is dropped and counted.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

import structlog

from service.batching.admission import ByteGate
from service.batching.ticket import Priority
from service.contract import PROBABILITIES
from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    InflightBytesError,
    NotReadyError,
    QueueFullError,
    RequestError,
)
from service.inference.deadline import RequestDeadline
from service.inference.pipeline import Results, Run
from service.inference.request import Image, ImageResult, InferenceRequest
from service.models.model import ServedModel
from service.models.repository import Repository
from service.models.rollout import Mode, Rollout
from service.models.rollouts import Rollouts

_MOST_AT_ONCE = 4
_NO_ROOM = (
    DeadlineExceededError,
    DeadlineUnreachableError,
    InflightBytesError,
    NotReadyError,
    QueueFullError,
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Pair:
    """An answered image, and the version to run it on as well."""

    rollout: Rollout
    image: Image
    result: ImageResult | RequestError
    model: ServedModel
    partner: ServedModel
    request_id: str

    def agreed(self, other: ImageResult | RequestError) -> bool | None:
        """Return whether both gave the same label; None if the incumbent gave none.

        A candidate that fails where the incumbent answers disagrees.
        """
        labels = {
            self.model.version: _label(self.result, self.model),
            self.partner.version: _label(other, self.partner),
        }
        expected = labels[self.rollout.incumbent]
        return None if expected is None else expected == labels[self.rollout.plan.candidate]


class Shadow:
    """Compares answers of rollouts. Use it on the event loop on which the models answer."""

    def __init__(self, rollouts: Rollouts, repository: Repository, body_bytes: ByteGate) -> None:
        self._rollouts, self._repository, self._bytes = rollouts, repository, body_bytes
        self._running: set[asyncio.Task[None]] = set()

    def offer(self, request: InferenceRequest, results: Results, seconds: float, run: Run) -> None:
        """Note an answered request; `seconds` is how long its answer took.

        Of several images, the first that can be compared is.
        """
        model = request.model
        rollout = self._rollouts.of(model.name)
        if rollout is None or not rollout.is_running():
            return
        if PROBABILITIES not in request.outputs or not rollout.concerns(model):
            return
        partner = self._partner(rollout, request)
        if not rollout.is_running():  # either was replaced
            return
        if rollout.plan.mode is Mode.CANARY and model.version == rollout.plan.candidate:
            self._rollouts.note_time(rollout, seconds)
        pair = _first_pair(rollout, request, results, partner) if partner else None
        if pair is not None:
            self._begin(pair, run)

    def _partner(self, rollout: Rollout, request: InferenceRequest) -> ServedModel | None:
        """Return what to compare the answer with; ends the rollout if it can't be any more."""
        model = request.model
        if not rollout.is_about(model):
            self._rollouts.end(model.name, f"the file of version {model.version} was replaced")
            return None
        version = rollout.partner_of(model, request.request_id)
        if version is None:
            return None
        partner = self._repository.models.get(model.name, version)
        if not (isinstance(partner, ServedModel) and rollout.is_about(partner)) or partner.broken:
            self._rollouts.end(model.name, f"version {version} is not served as it was any more")
            return None
        partner.last_used = time.monotonic()
        return partner

    def _begin(self, pair: _Pair, run: Run) -> None:
        """Begin a comparison if there is room for it, or drop it."""
        if len(self._running) >= _MOST_AT_ONCE or not self._repository.is_idle:
            self._rollouts.note_drop(pair.rollout)
            return
        if not isinstance(pair.image, bytes):  # a view would keep its request's whole body
            pair = replace(pair, image=pair.image.copy())
        task = asyncio.create_task(self._compare(pair, run))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _compare(self, pair: _Pair, run: Run) -> None:
        size = len(pair.image) if isinstance(pair.image, bytes) else pair.image.nbytes
        timeout_ms = pair.partner.timeout_ms
        due = RequestDeadline(time.perf_counter() + timeout_ms / 1000, timeout_ms, Priority.LOW)
        asked = InferenceRequest(pair.partner, [pair.image], due, pair.request_id)
        try:
            self._bytes.take(size)
            try:
                (result,) = await run(asked)
            finally:
                self._bytes.give_back(size)
        except RequestError as error:
            result = error
        except Exception:  # noqa: BLE001 - nobody waits for this task
            _log.exception("comparison_failed", model=pair.partner.name)
            return
        if isinstance(result, _NO_ROOM):
            self._rollouts.note_drop(pair.rollout)
            return
        if pair.rollout.plan.mode is Mode.SHADOW and isinstance(result, ImageResult):
            self._rollouts.note_time(pair.rollout, asked.timings.infer_s or 0.0)
        if (agreed := pair.agreed(result)) is not None:
            self._rollouts.note_comparison(pair.rollout, agreed=agreed)


def _first_pair(
    rollout: Rollout, request: InferenceRequest, results: Results, partner: ServedModel
) -> _Pair | None:
    """Return the first image that was answered, or that the version itself failed on."""
    model, request_id = request.model, request.request_id
    for image, result in zip(request.images, results, strict=True):
        if isinstance(image, RequestError) or isinstance(result, _NO_ROOM):
            continue
        if isinstance(result, ImageResult) or result.status >= 500:
            return _Pair(rollout, image, result, model, partner, request_id)
    return None


def _label(result: ImageResult | RequestError, model: ServedModel) -> str | None:
    """Return the id of the most probable label; None if the version gave none."""
    if isinstance(result, RequestError):
        return None
    return model.contract.labels[int(result.probabilities.argmax())].id

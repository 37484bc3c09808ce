"""Makes an engine ready: times its batch sizes and checks its model's golden cases."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from service.batching.latency import LatencyTable
from service.contract import ModelContract
from service.engine.base import Engine
from service.errors import DeviceMemoryError
from service.golden import check_golden, golden_pattern
from service.tuning.profile import Profile, smallest_nearly_best

_log = structlog.get_logger(__name__)


class DisagreementError(Exception):
    """The model's answers differ from those of its golden cases."""


class Prover:
    """Proves the engines of one model, one at a time.

    If `max_batch` is free, it is determined: the smallest size with nearly the best throughput,
    leaving out those that don't fit in the device's memory.
    """

    def __init__(
        self,
        name: str,
        contract: ModelContract,
        profile: Profile,
        latencies: LatencyTable,
        reopen_exactly: Callable[[], Engine],
        max_batch: int,
        *,
        max_batch_is_free: bool,
    ) -> None:
        self._name, self._contract, self._profile = name, contract, profile
        self._latencies, self._reopen_exactly = latencies, reopen_exactly
        self.max_batch = max_batch
        self._max_batch_is_free = max_batch_is_free
        self.on_max_batch: Callable[[int], None] = lambda _: None
        """Called with the new `max_batch` whenever it changes."""

    def prove(
        self, engine: Engine, reopen: Callable[[], Engine], stop: threading.Event
    ) -> tuple[Engine, float | None]:
        """Return an engine that is ready, and its largest difference from the golden cases.

        It is another engine if the given one, which then is closed, ran out of memory or disagreed
        in a faster precision than the file's own. The difference is None if `stop` was set. Raises
        `DisagreementError`, or what the engine raises.
        """
        given = engine
        while True:
            try:
                return engine, self._prove(engine, stop)
            except BaseException as error:
                way_out = self._way_out(error, engine, reopen)
                if way_out is None:
                    if engine is not given:
                        engine.close()
                    raise
            engine.close()
            engine = way_out()

    def _way_out(
        self, error: BaseException, engine: Engine, reopen: Callable[[], Engine]
    ) -> Callable[[], Engine] | None:
        """Return what opens an engine that may do better, and be ready for that one."""
        is_too_large = isinstance(error, DeviceMemoryError) and self.max_batch > 1
        if is_too_large and self._max_batch_is_free:
            self._limit_batches(self.max_batch // 2)
            _log.warning(
                "max_batch_lowered", model=self._name, max_batch=self.max_batch, detail=str(error)
            )
            return reopen
        if isinstance(error, DisagreementError) and engine.rounds_to is not None:
            self._profile.forget()
            self._latencies.forget()
            _log.warning(
                "precision_not_taken",
                model=self._name,
                precision=engine.rounds_to,
                taken=self._contract.precision,
                detail=str(error),
            )
            return self._reopen_exactly
        return None

    def _prove(self, engine: Engine, stop: threading.Event) -> float | None:
        pixels = golden_pattern(1, *self._contract.preprocessing.input_size)
        engine.prepare(buckets(self.max_batch))
        times = self._profile.measure(engine, pixels, buckets(self.max_batch), stop)
        if times and self._max_batch_is_free:
            self._limit_batches(smallest_nearly_best(times))
            engine.prepare(buckets(self.max_batch))
        worst, failures = 0.0, dict[str, None]()
        for batch in buckets(self.max_batch):
            if times is None or stop.is_set():
                return None
            for seconds in times.get(batch, ()):
                self._latencies.measure(batch, seconds)
            report = check_golden(engine, self._contract, batch)
            worst = max(worst, report.max_abs_diff)
            failures |= dict.fromkeys(report.failures)
            for warning in report.warnings if batch == 1 else ():
                _log.warning("golden_case", model=self._name, detail=warning)
        if failures:
            raise DisagreementError("; ".join(failures))
        return worst

    def _limit_batches(self, max_batch: int) -> None:
        self.max_batch = max_batch
        self.on_max_batch(max_batch)


def buckets(max_batch: int) -> list[int]:
    """Return the batch sizes to prepare: 1, 2, 4, ... and `max_batch`."""
    sizes = [1]
    while sizes[-1] * 2 < max_batch:
        sizes.append(sizes[-1] * 2)
    return sizes if max_batch == 1 else [*sizes, max_batch]

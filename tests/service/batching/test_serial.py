"""A serial limit: batches are computed one after the other, as on a GPU, while others get ready."""

from __future__ import annotations

import math
import threading

import pytest
from stage import stage
from staged_calls import Ending
from structlog.testing import capture_logs
from waiting import PATIENCE_S

from service.engine.base import DeviceOutputs

FULL_BEST = [1.0, 1.0, 1.0, 1.0]  # seconds of 1 to 4 images: the more at a time the better


def on_gpu(tables=None, **options):
    options = {"threads": 3, "runners": 2, "max_batch": 4, "serial": True} | options
    return stage(tables or [FULL_BEST], **options)


def values(scene) -> list[list[int]]:
    return [call.values for call in scene.blocked()]


def end_one(scene) -> None:
    scene.blocked()[0].end(Ending.ANSWER)
    scene.settle()


def test_what_waits_is_not_shared_out():
    """Two halves would be computed one after the other, and take longer than the whole."""
    with on_gpu() as scene:
        scene.submit(0, count=4)
        scene.settle()
        assert values(scene) == [[1, 2, 3, 4]]
        scene.end()


def test_an_incomplete_batch_waits_while_another_is_computed_and_goes_on_growing():
    with on_gpu() as scene:
        scene.submit(0)
        scene.settle()
        scene.submit(0)
        scene.settle()
        assert values(scene) == [[1]]
        scene.submit(0)
        scene.settle()
        end_one(scene)
        assert values(scene) == [[2, 3]]
        scene.end()


def test_a_full_batch_does_not_wait():
    with on_gpu() as scene:
        scene.submit(0)
        scene.settle()
        scene.submit(0, count=4)
        scene.settle()
        assert values(scene) == [[1], [2, 3, 4, 5]]
        scene.submit(0, count=4)
        scene.settle()
        assert len(scene.blocked()) == 2, "and no more than the limit allows"
        scene.end()


def test_models_take_turns_on_the_device():
    with on_gpu([FULL_BEST, FULL_BEST]) as scene:
        scene.submit(0)
        scene.settle()
        scene.submit(1)
        scene.advance(0.9)
        scene.settle()
        assert values(scene) == [[1]], "the other model's batch is computed"
        end_one(scene)
        assert values(scene) == [[2]]
        scene.end()


def test_a_batch_that_takes_far_longer_than_planned_keeps_nobody_from_getting_ready():
    with on_gpu() as scene:
        scene.submit(0)
        scene.settle()
        scene.submit(0)
        scene.advance(1.9)
        scene.settle()
        assert values(scene) == [[1]], "planned were 1 s, and as long again is waited"
        scene.advance(0.2)
        scene.settle()
        assert values(scene) == [[1], [2]]
        scene.end()


def test_when_batches_should_end_counts_that_one_waits_for_the_other():
    with on_gpu() as scene:
        scene.submit(0)
        scene.settle()
        scene.advance(0.75)
        scene.submit(0, count=4)
        scene.settle()
        first, second = scene.pool.schedule.running()
        assert (len(first.tickets), first.rest_s) == (1, pytest.approx(0.25))
        assert (len(second.tickets), second.rest_s) == (4, pytest.approx(1.0))
        assert second.ends_at == pytest.approx(scene.clock.now + 1.25)
        scene.end()


def test_side_by_side_they_end_each_by_itself():
    with stage([[1.0]], threads=2) as scene:
        scene.submit(0, count=2)
        scene.settle()
        scene.advance(0.75)
        assert [batch.rest_s for batch in scene.pool.schedule.running()] == [
            pytest.approx(0.25)
        ] * 2
        scene.end()


def test_a_batchs_time_is_the_devices_own():
    """Without what it waited for, which would be planned for twice, and what its thread did."""
    with on_gpu() as scene:
        batcher, clock = scene.batchers[0], scene.clock
        observed: list[tuple[int, float]] = []
        batcher.latencies.observe = lambda size, s: observed.append((size, s))
        run = batcher.engine.run

        def timed(pixels, outputs):
            answers = run(pixels, outputs)
            return DeviceOutputs(answers, clock.now - 0.3, clock.now - 0.1)

        batcher.engine.run = timed
        (entry,) = scene.submit(0)
        scene.settle()
        scene.advance(1.2)
        end_one(scene)
        assert observed == [(1, pytest.approx(0.2))]
        answer = entry.future.result()
        assert (answer.infer_s, answer.queue_s) == (pytest.approx(0.2), pytest.approx(0.9))
        assert scene.concurrency.ended_at == pytest.approx(clock.now - 0.1)
        scene.end()


def test_the_batch_after_one_is_planned_from_its_end_on():
    with on_gpu() as scene:
        scene.submit(0)
        scene.settle()
        scene.concurrency.ended_at = (
            scene.clock.now + 0.4
        )  # of another that was computed at its take
        (batch,) = scene.pool.schedule.running()
        assert batch.ends_at == pytest.approx(scene.clock.now + 1.4)
        scene.end()


def test_max_delay_does_not_take_a_batch_before_its_turn():
    with on_gpu(max_delay_s=0.1) as scene:
        scene.submit(0)
        scene.advance(0.2)
        scene.settle()
        scene.submit(0)
        scene.advance(0.2)
        scene.settle()
        assert values(scene) == [[1]], "its delay is over, and the device is not free yet"
        scene.end()


def test_an_alarm_that_has_rung_leaves_the_next_one_to_be_set():
    """Who believes that another thread keeps the time sleeps for ever."""
    with on_gpu(threads=2, runners=1, serial=False, max_delay_s=0.02) as scene:
        wait, waits = scene.pool._wait, threading.Semaphore(0)

        def noted(seconds: float) -> None:
            if seconds != math.inf:
                waits.release()
            wait(seconds)

        scene.pool._wait = noted
        for _ in range(3):
            scene.submit(0)
            assert waits.acquire(timeout=PATIENCE_S)
            with scene.sleepers:  # it sleeps now
                scene.clock.now += 0.03
            scene.settle()
            assert len(scene.blocked()) == 1
            end_one(scene)
            while waits.acquire(blocking=False):
                pass
        scene.end()


# Batches that take far longer than their size does


def slow_batches(scene) -> float:
    value = scene.metrics.registry.get_sample_value(
        "resnet_serve_slow_batches_total", {"model": "m0", "version": "1"}
    )
    assert value is not None
    return value


def run_for(scene, seconds: float) -> None:
    scene.submit(0)
    scene.settle()
    scene.advance(seconds)
    end_one(scene)


@pytest.mark.parametrize("serial", [True, False])
def test_a_batch_of_ten_times_its_sizes_median_is_counted_and_logged_once_a_minute(serial):
    with on_gpu(serial=serial) as scene, capture_logs() as logs:
        run_for(scene, 9)
        assert slow_batches(scene) == 0
        run_for(scene, 11)
        run_for(scene, 11)
        assert slow_batches(scene) == 2
        assert [(log["event"], log["images"], log["took_ms"]) for log in logs] == [
            ("slow_batch", 1, 11_000)
        ]
        run_for(scene, 61)
        assert slow_batches(scene) == 3
        assert len(logs) == 2
        scene.end()

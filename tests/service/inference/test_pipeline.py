"""The pipeline by itself, without HTTP: plain data in and out, and every outcome counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from color_model import WEIGHT, reference, write_color_model
from engines import hold_model
from images import colored, encode, photo

from service.batching.ticket import Ticket
from service.errors import (
    DeadlineExceededError,
    MissingOutputError,
    NotAnImageError,
    RequestError,
)
from service.golden import golden_pattern
from service.inference.deadline import RequestDeadline
from service.inference.request import Image, ImageResult, InferenceRequest
from service.inference.runtime import Runtime, create_runtime
from service.settings import Settings

PNG = encode(photo(300, 200), "PNG")
DECODED = "resnet_serve_decode_duration_seconds_count"


@pytest.fixture
def runtime(model_folder) -> Runtime:
    return runtime_of(model_folder, max_batch=1)


@pytest.fixture
def several(model_folder) -> Runtime:
    """Whose batches hold several images of a model with all outputs."""
    write_color_model(model_folder / "color.onnx", extra_outputs=True)
    return runtime_of(model_folder, max_delay_ms=50)


@pytest.fixture
def sharing(model_folder) -> Runtime:
    """The same, where identical images are computed once."""
    write_color_model(model_folder / "color.onnx", extra_outputs=True)
    return runtime_of(model_folder, coalesce=True)


def runtime_of(models: Path, **settings: object) -> Runtime:
    values = {"models": models, "runners": 1, "intra_op_threads": 1, "cache_dir": None}
    return create_runtime(Settings.model_validate(values | settings))


def during(runtime: Runtime, work: Callable[[Any], Awaitable[None]]) -> None:
    """Run some work while the models are served."""

    async def main() -> None:
        repository = runtime.repository
        repository.start()
        await asyncio.to_thread(repository.warm_up, threading.Event())
        (model,) = repository
        try:
            await asyncio.wait_for(work(model), 60)
        finally:
            runtime.decode_pool.close()
            await asyncio.to_thread(repository.close, 30)

    asyncio.run(main())


def asked(model, *images: Image | RequestError, left_s: float = 60) -> InferenceRequest:
    due = RequestDeadline(time.perf_counter() + left_s, round(left_s * 1000))
    return InferenceRequest(model, images, due, "an-id")


def outcomes(runtime: Runtime) -> dict[str, float]:
    (family,) = (
        each for each in runtime.metrics.registry.collect() if each.name == "resnet_serve_images"
    )
    return {
        sample.labels["outcome"]: sample.value
        for sample in family.samples
        if sample.value and sample.name.endswith("_total")
    }


def test_each_image_has_its_result_or_its_error_in_order(runtime):
    async def work(model) -> None:
        refused = NotAnImageError("refused before")
        request = asked(model, colored("red"), refused, b"text", colored("blue"))
        red, same, text, blue = await runtime.inference.run(request)
        assert [int(each.probabilities.argmax()) for each in (red, blue)] == [0, 2]
        assert (red.width, red.height) == (20, 12)
        assert same is refused
        assert isinstance(text, NotAnImageError)
        assert request.timings.batch_size == 1
        assert request.timings.infer_s is not None
        assert model.gate.admitted == 0
        assert outcomes(runtime) == {"ok": 2, "not_an_image": 2}

    during(runtime, work)


def test_pixels_that_come_as_such_are_answered_like_the_image_that_they_are_of(runtime):
    async def work(model) -> None:
        pixels = [golden_pattern(seed, 8) for seed in range(3)]
        first, small, second, third = await runtime.inference.run(
            asked(model, pixels[0], np.zeros((8, 7, 3), np.uint8), *pixels[1:])
        )
        for image, result in zip(pixels, (first, second, third), strict=True):
            assert np.abs(result.probabilities - reference(image)).max() < 1e-5
            assert (result.width, result.height) == (8, 8)
        assert str(small) == "model color takes pixels as uint8 [8, 8, 3], got uint8 [8, 7, 3]"
        assert outcomes(runtime) == {"ok": 3, "invalid_pixels": 1}

    during(runtime, work)


def test_pixels_are_not_counted_as_decoded(runtime):
    async def work(model) -> None:
        request = asked(model, golden_pattern(1, 8))
        await runtime.inference.run(request)
        assert request.timings.decode_s is None
        assert runtime.metrics.registry.get_sample_value(DECODED) == 0
        await runtime.inference.run(asked(model, PNG))
        assert runtime.metrics.registry.get_sample_value(DECODED) == 1

    during(runtime, work)


def test_each_request_gets_the_outputs_that_it_wants_whatever_shares_its_batch(several):
    async def work(model) -> None:
        engine = hold_model(several)
        engine.open.clear()
        image = golden_pattern(1, 8)
        wanted = [("probabilities",), ("embedding",), ("classifier_weight", "features"), None]
        requests = [asked(model, image) for _ in wanted]
        for request, outputs in zip(requests, wanted, strict=True):
            if outputs is not None:
                request.outputs = outputs
        tasks = [asyncio.create_task(several.inference.run(each)) for each in requests]
        assert await asyncio.to_thread(engine.entered.acquire, timeout=60)
        engine.open.set()
        answers = [(await task)[0].outputs for task in tasks]
        for outputs, answer in zip(wanted, answers, strict=True):
            assert tuple(answer) == (outputs or ("probabilities",))
        assert answers[1]["embedding"].shape == (3,)
        np.testing.assert_array_equal(answers[2]["classifier_weight"], WEIGHT)
        assert np.abs(answers[3]["probabilities"] - reference(image)).max() < 1e-5

    during(several, work)


def test_an_output_that_the_file_does_not_have_is_refused_before_anything_is_decoded(runtime):
    async def work(model) -> None:
        request = asked(model, PNG)
        request.outputs = ("probabilities", "embedding")
        with pytest.raises(MissingOutputError, match="has no output embedding; its file has: prob"):
            await runtime.inference.run(request)
        assert model.gate.admitted == 0

    during(runtime, work)


def test_identical_images_share_a_computation_only_if_the_same_outputs_are_wanted(sharing):
    async def work(model) -> None:
        engine = hold_model(sharing)
        engine.open.clear()
        requests = [asked(model, PNG) for _ in range(3)]
        requests[2].outputs = ("embedding",)
        tasks = [asyncio.create_task(sharing.inference.run(each)) for each in requests]
        assert await asyncio.to_thread(engine.entered.acquire, timeout=60)
        engine.open.set()
        answers = [(await task)[0].outputs for task in tasks]
        assert [tuple(answer) for answer in answers] == [
            ("probabilities",), ("probabilities",), ("embedding",)
        ]  # fmt: skip
        assert model.metrics.coalesced._value.get() == 1

    during(sharing, work)


def test_a_defect_is_that_images_internal_error_and_told_by_the_requests_id(runtime, monkeypatch):
    def broken(image, preprocessing, policy):
        raise ZeroDivisionError("a defect")

    async def work(model) -> None:
        small = colored("green")
        monkeypatch.setattr("service.inference.pipeline.decode_at_once", lambda *_: None)
        monkeypatch.setattr("service.inference.pipeline.decode", broken)
        (only,) = await runtime.inference.run(asked(model, small))
        assert isinstance(only, RequestError)
        assert (only.code, str(only)) == ("internal_error", "an internal error; its id is an-id")
        monkeypatch.undo()
        (result,) = await runtime.inference.run(asked(model, small))
        assert isinstance(result, ImageResult)
        assert outcomes(runtime) == {"internal_error": 1, "ok": 1}

    during(runtime, work)


@pytest.mark.parametrize("when", ["in the queue", "before it begins"])
def test_every_image_of_a_caller_that_leaves_is_counted_and_given_up(runtime, when):
    async def work(model) -> None:
        engine = hold_model(runtime)
        engine.open.clear()
        task = asyncio.create_task(runtime.inference.run(asked(model, *[colored()] * 5, PNG)))
        if when == "in the queue":
            assert await asyncio.to_thread(engine.entered.acquire, timeout=60)
            assert model.gate.admitted == 6
        else:  # after its first step, in which its images' tasks are made
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.gate.admitted == 0
        assert outcomes(runtime) == {"cancelled": 6}
        engine.open.set()

    during(runtime, work)


def test_a_request_some_of_whose_images_are_late_tells_how_long_it_took(runtime):
    """As one image does: or plans would go on being too good."""

    def late(ticket: Ticket, **_: object) -> None:
        """As the batcher does it, long after any plan for this model."""
        assert isinstance(ticket.waiter, asyncio.Future)
        reject = partial(ticket.waiter.set_exception, DeadlineExceededError("too late"))
        loop = ticket.waiter.get_loop()
        loop.call_soon_threadsafe(loop.call_later, 0.1, reject)

    async def work(model) -> None:
        told: list[tuple[float, ...]] = []
        model.gate.learn = lambda *times: told.append(times)
        model.batcher().submit = late
        results = await runtime.inference.run(asked(model, *[colored()] * 3))
        assert [type(result) for result in results] == [DeadlineExceededError] * 3
        assert outcomes(runtime) == {"deadline_exceeded": 3}
        assert len(told) == 1
        planned_s, took_s, _ = told[0]
        assert took_s > planned_s

    during(runtime, work)

"""The pipeline by itself, without HTTP: plain data in and out, and every outcome counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from engines import hold_model
from images import colored, encode, photo

from service.app import create_runtime
from service.batching.ticket import Ticket
from service.errors import DeadlineExceededError, NotAnImageError, RequestError
from service.inference.deadline import RequestDeadline
from service.inference.request import ImageResult, InferenceRequest
from service.inference.runtime import Runtime
from service.settings import Settings

PNG = encode(photo(300, 200), "PNG")


@pytest.fixture
def runtime(model_folder) -> Runtime:
    values = {"models": model_folder, "runners": 1, "intra_op_threads": 1, "cache_dir": None}
    return create_runtime(Settings.model_validate(values | {"max_batch": 1}))


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


def asked(model, *images: bytes | RequestError, left_s: float = 60) -> InferenceRequest:
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

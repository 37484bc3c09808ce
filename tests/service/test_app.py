"""The application by itself, as any ASGI server or test client runs it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgi import during
from images import colored, top_label
from structlog.testing import capture_logs


def test_it_answers_whoever_calls_it(model_folder):
    async def work(app, client) -> None:
        answer = await client.post("/v1/classify", content=colored("green"))
        assert (answer.status_code, top_label(answer)) == (200, "green")
        assert answer.headers["x-request-id"]
        missing = await client.get("/nope")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")

    during(model_folder, work)


def test_a_caller_that_cancels_a_request_has_it_cancelled(model_folder):
    """It is not given up by a server that stops, and gets no answer of one."""

    async def work(app, client) -> None:
        (model,) = app.state.runtime.repository
        held, free = threading.Event(), threading.Event()
        run = model.engine.run

        def waiting(pixels, outputs):
            held.set()
            free.wait(60)
            return run(pixels, outputs)

        model.engine.run = waiting
        task = asyncio.create_task(client.post("/v1/classify", content=colored()))
        assert await asyncio.to_thread(held.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()
        assert app.state.runtime.given_up == 0
        assert model.gate.admitted == 0

    during(model_folder, work)


def test_a_defect_behind_the_pages_is_a_problem_detail_too(model_folder):
    """With its id in the answer and its traceback in the log, once."""

    async def work(app, client) -> None:
        def broken():
            raise ZeroDivisionError("a defect")

        app.openapi = broken
        with capture_logs() as logs:
            answer = await client.get("/openapi.json")
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (500, "internal_error")
        assert problem["request_id"] in problem["detail"]
        assert [log["event"] for log in logs] == ["internal_error", "request"]
        assert (logs[1]["status"], logs[1]["code"]) == (500, "internal_error")
        assert logs[0]["request_id"] == logs[1]["request_id"] == problem["request_id"]

    during(model_folder, work)


def test_paths_are_told_as_they_came_whatever_the_root_path(model_folder):
    async def work(app, client) -> None:
        with capture_logs() as logs:
            answers = [await client.get(path) for path in ("/nope", "/images/nope")]
        assert [log["path"] for log in logs] == ["/nope", "/nope"]
        assert all("there is no /nope;" in answer.json()["detail"] for answer in answers)
        await client.get("/openapi.json")
        assert 'route="/openapi.json"' in (await client.get("/metrics")).text

    during(model_folder, work, root_path="/images")

"""The watchdog: a stuck runner stands in the log once, and so does its end."""

from __future__ import annotations

import threading
from typing import Any

import structlog
from images import colored, top_label
from waiting import wait_until


def test_a_stuck_runner_is_logged_once_and_so_is_its_end(serve, monkeypatch):
    monkeypatch.setattr("service.models.watchdog._PERIOD_S", 0.01)
    with structlog.testing.capture_logs() as logs:
        client = serve(runners=1, stuck_after_s=0.5)
        (model,) = client.app.state.runtime.repository
        inner, go = model.engine.run, threading.Event()

        def run(pixels, outputs):
            assert go.wait(60)
            return inner(pixels, outputs)

        def told(event: str) -> list[Any]:
            return [log for log in logs if log["event"] == event]

        model.engine.run = run
        answers = []
        waiter = threading.Thread(
            target=lambda: answers.append(client.post("/v1/classify", content=colored("red")))
        )
        waiter.start()
        wait_until(lambda: told("trouble"))
        assert client.get("/livez").status_code == 503
        go.set()
        waiter.join()
        wait_until(lambda: told("trouble_over"))
        assert top_label(answers[0]) == "red"
        assert client.get("/livez").status_code == 200
    (trouble,) = told("trouble")
    assert (trouble["log_level"], trouble["where"]) == ("error", "color")
    assert "on one batch for" in trouble["detail"]
    assert len(told("trouble_over")) == 1

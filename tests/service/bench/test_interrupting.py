"""Ctrl-C while `resnet-serve bench` runs: what was measured is not lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from images import colored

from service.bench import generator, limits, load
from service.bench.cli import run_bench
from service.cli import main

INTERRUPTED = 130


@pytest.fixture
def flags(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.png").write_bytes(colored("red"))
    return {
        "images": str(tmp_path / "images"), "warm_up": "0.1",
        "json_file": str(tmp_path / "r.json"), "html_file": str(tmp_path / "r.html"),
    }  # fmt: skip


def test_the_finished_runs_of_a_sweep_are_reported(flags, serve, monkeypatch, capsys):
    """The second run is interrupted before it has anything to tell."""
    slow, begun, run_open = 40, itertools.count(1), load.run_open

    async def interrupted(*given: Any) -> None:
        if next(begun) == 2:
            signal.raise_signal(signal.SIGINT)
        await run_open(*given)

    monkeypatch.setattr(generator, "run_open", interrupted)
    url = str(serve().base_url)
    flags |= {"url": url, "mode": "poisson", "sweep": f"{slow},400", "duration": "0.5"}
    assert run_bench(flags) == INTERRUPTED
    report = json.loads(Path(flags["json_file"]).read_text())
    assert report["interrupted"]
    assert [(run["rate"], run["interrupted"]) for run in report["runs"]] == [(slow, False)]
    assert report["runs"][0]["errors"] == {}
    assert "Interrupted" in capsys.readouterr().out
    assert "Interrupted" in Path(flags["html_file"]).read_text()


def test_a_long_run_is_reported_up_to_the_interruption(flags, serve, at_batch, capsys):
    """What was under way then is no error of the server's."""
    url = str(serve(max_batch=1).base_url)
    # At a hundred a second: long after the warm-up, and long before the end.
    at_batch(150, lambda: os.kill(os.getpid(), signal.SIGINT))
    flags |= {"url": url, "mode": "poisson", "rate": "100", "duration": "600"}
    assert run_bench(flags) == INTERRUPTED
    report = json.loads(Path(flags["json_file"]).read_text())
    (run,) = report["runs"]
    assert run["interrupted"]
    assert run["errors"] == {}
    assert 0.5 <= run["seconds"] < 60
    assert 0 < run["ok"] == run["requests"] < 150
    assert run["generator"]["cpu_s"] > 0
    assert run["server"]["cpu_s"] is None or run["server"]["cpu_s"] > 0
    assert "100 arrivals/s (interrupted)" in capsys.readouterr().out


def test_a_run_is_reported_that_was_just_over(flags, serve, monkeypatch):
    """What came of it is being gathered, which of long runs takes its time."""
    close = generator.Sender.close

    async def interrupted(sender: generator.Sender) -> generator.Outcome:
        signal.raise_signal(signal.SIGINT)
        return await close(sender)

    monkeypatch.setattr(generator.Sender, "close", interrupted)
    flags |= {"url": str(serve().base_url), "duration": "0.3"}
    assert run_bench(flags) == INTERRUPTED
    (run,) = json.loads(Path(flags["json_file"]).read_text())["runs"]
    assert run["interrupted"]
    assert run["errors"] == {}
    assert run["ok"] > 0


def test_the_load_is_reported_when_the_limits_are_interrupted(flags, serve, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(limits, "measure_limits", interrupted)
    flags |= {"url": str(serve().base_url), "duration": "0.3", "limits": True}
    assert run_bench(flags) == INTERRUPTED
    report = json.loads(Path(flags["json_file"]).read_text())
    assert [run["interrupted"] for run in report["runs"]] == [False]
    assert "limits" not in report


def test_before_anything_was_measured_there_is_no_report(flags, serve, at_batch, capsys):
    url = str(serve().base_url)
    at_batch(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_bench(flags | {"url": url})
    assert "closed loop" not in capsys.readouterr().out


def test_ctrl_c_while_flags_are_read_has_no_traceback(monkeypatch):
    """What is imported for that takes a while."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.bench.cli.add_bench", interrupted)
    assert main(["bench"]) == INTERRUPTED

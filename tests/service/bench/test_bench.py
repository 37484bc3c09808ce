"""`resnet-serve bench` against real servers, and its reports."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import datetime
from html import unescape
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import pytest
from color_model import write_color_model
from images import colored

from service import __version__
from service.access.keys import new_key
from service.access.scopes import GIVEN
from service.bench.cli import run_bench
from service.bench.errors import OptionError, ReferenceAnswerError, TargetError
from service.contract import MultiLabel

Bench = Callable[..., dict]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Gives a function that runs the program for a second and reads its JSON report."""
    images = tmp_path / "images"
    images.mkdir()
    for color in ("red", "green", "blue"):
        (images / f"{color}.png").write_bytes(colored(color))

    def run(client: httpx.Client, expect_status: int = 0, **flags: object) -> dict:
        arguments = {
            "url": str(client.base_url), "images": str(images), "duration": "1", "warm_up": "0.2",
            "json_file": str(tmp_path / "r.json"), "html_file": str(tmp_path / "r.html"),
        }  # fmt: skip
        assert run_bench(arguments | {k: str(v) for k, v in flags.items()}) == expect_status
        return json.loads((tmp_path / "r.json").read_text())

    return run


def svgs(page: str) -> list[ET.Element]:
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]  # noqa: S314 - our own


def test_a_server_with_keys_is_asked_with_one_which_no_report_has(bench, serve, tmp_path):
    key, known = new_key("load", GIVEN, None)
    (tmp_path / "keys").write_text(known.line() + "\n")
    (tmp_path / "key").write_text(key + "\n")
    client = serve(api_keys=tmp_path / "keys")
    report = bench(client, clients=2, api_key_file=tmp_path / "key")
    (run,) = report["runs"]
    assert run["errors"] == {}
    assert run["ok"] > 10
    assert run["server"]["cpu_s"] > 0
    assert report["server"]["settings"]["models"]
    assert key.partition(".")[2] not in (tmp_path / "r.json").read_text()
    with pytest.raises(ReferenceAnswerError, match="401"):
        bench(client)
    (tmp_path / "key").write_text("two words")
    with pytest.raises(OptionError, match=r"--api-key-file .*/key: an API key is one word"):
        bench(client, api_key_file=tmp_path / "key")


def test_a_closed_loop_reports_what_the_server_did(bench, serve, tmp_path, capsys):
    report = bench(serve(), clients=4, deadline_ms=5000)
    (run,) = report["runs"]
    assert run["errors"] == {}
    assert run["requests"] == run["ok"] > 10
    assert run["goodput_per_s"] == run["throughput_per_s"] > 10
    assert list(run["stages_ms"]) == ["receive", "decode", "queue", "infer"]
    assert sum(run["server"]["batch_sizes"].values()) > 0
    assert run["server"]["cpu_s"] > 0
    assert run["server"]["rss_peak_bytes"] > 1e6
    assert run["generator"]["cpu_cores"] > 0
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["packages"]["numpy"] == np.__version__
    assert report["images"]["count"] == 3
    assert report["server"]["models"][0]["name"] == "color"
    assert "closed loop, 4 clients" in capsys.readouterr().out

    page = (tmp_path / "r.html").read_text()
    assert len(svgs(page)) == 5
    assert "http-equiv" not in page
    assert not re.search(r"""(src|href)=|@import|url\(""", page), "the page must need no other file"


@pytest.mark.parametrize("reference", ["server", "local"])
def test_answers_of_independent_labels_are_checked(bench, serve, model_folder, reference):
    """Also of images that have no label at their thresholds, since all labels are asked for."""
    path = model_folder / "color.onnx"
    write_color_model(path, multi_label=MultiLabel(threshold=1))
    flags = {"model_file": path} if reference == "local" else {}
    (run,) = bench(serve(), reference=reference, **flags)["runs"]
    assert run["errors"] == {}
    assert run["ok"] > 10


def test_poisson_arrivals_are_offered_at_their_rate_whatever_the_server_does(
    bench, serve, model_folder
):
    report = bench(
        serve(), mode="poisson", rate=100, reference="local", model_file=model_folder / "color.onnx"
    )
    (run,) = report["runs"]
    assert run["errors"] == {}
    assert 60 < run["requests"] < 140  # four deviations of 100
    assert run["lateness_ms"]["p50"] >= 0
    assert run["rate"] == 100


def test_a_sweep_plots_latency_and_goodput_against_the_offered_rate(bench, serve, tmp_path, capsys):
    report = bench(serve(), mode="burst", sweep="40,80", duration=0.5, deadline_ms=5000)
    assert [run["rate"] for run in report["runs"]] == [40, 80]
    page = (tmp_path / "r.html").read_text()
    assert page.index("Latency against offered rate") < page.index("Goodput against offered rate")
    assert len(svgs(page)) == 2 + 2 * 5
    assert "| arrivals/s |" in capsys.readouterr().out


def test_a_trace_is_replayed_arrival_by_arrival(bench, serve, tmp_path):
    trace = tmp_path / "trace.txt"
    trace.write_text("".join(f"{i * 0.01:.2f}\n" for i in range(50)))
    (run,) = bench(serve(), mode="trace", trace=trace, warm_up=0)["runs"]
    assert run["requests"] == 50
    assert run["errors"] == {}


def test_a_server_that_begins_to_answer_wrongly_is_found_out(bench, serve, answering):
    """The status of the program says so too."""
    client = serve()
    answering(lambda number, right: right if number <= 3 + 4 else np.roll(right, 1, axis=1))
    # The reference answers and a few of the load's are right.
    (run,) = bench(client, expect_status=1, clients=2, warm_up=0)["runs"]
    assert run["ok"] > 0
    assert run["errors"]["wrong_answer"] > 0
    assert run["requests"] == run["ok"] + run["errors"]["wrong_answer"]


def test_a_wrong_answer_in_the_warm_up_is_reported_too(bench, serve, answering, tmp_path, capsys):
    """It is none of what was measured, and no reason to trust that."""
    client = serve(max_batch=1)
    answering(lambda number, right: right if number != 3 + 1 else np.roll(right, 1, axis=1))
    (run,) = bench(client, expect_status=1, clients=2, warm_up=1)["runs"]
    assert run["errors"] == {}
    assert run["ok"] > 0
    assert run["warm_up_errors"] == {"wrong_answer": 1}
    assert "warm-up errors wrong_answer 1\n" in capsys.readouterr().out
    assert "<td>warm-up errors</td><td>wrong_answer 1</td>" in (tmp_path / "r.html").read_text()


def test_each_form_of_a_report_says_what_was_measured_when_and_with_what(
    bench, serve, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["/bin/resnet-serve", "bench", "--trace", "caf\udce9"])
    began = datetime.now().astimezone().replace(microsecond=0)
    report = bench(serve(max_queue=77), duration=0.2, server_pid=os.getpid())
    date = datetime.fromisoformat(report["date"])
    assert began <= date <= datetime.now().astimezone()
    settings = report["server"]["settings"]
    assert settings["version"] == __version__
    assert settings["parallelism"]["runners"] > 0
    assert settings["models"][0]["queue"]["limit"] == 77
    threads = settings["parallelism"]["intra_op_threads"]
    for shown in (capsys.readouterr().out, unescape((tmp_path / "r.html").read_text())):
        assert report["date"] in shown
        assert "resnet-serve bench --trace" in shown
        assert f"numpy {np.__version__}" in shown
        assert f"resnet-serve {__version__}; " in shown
        assert f"runners x {threads} intra-op threads" in shown
        assert "color version 1: cpu, max_batch 8, max_queue 77" in shown
        assert report["server"]["command"] in shown
    assert Path(report["server"]["command"].split()[0]).name.startswith("python")


def test_a_report_that_fails_in_one_form_is_there_in_the_others(bench, serve, monkeypatch, capsys):
    def broken(report: dict) -> str:
        raise ValueError("can't be drawn")

    monkeypatch.setattr("service.bench.html_report.render_html", broken)
    with pytest.raises(ValueError, match="drawn"):
        bench(serve(), duration=0.2)
    assert "closed loop, 8 clients" in capsys.readouterr().out


def test_refusals_are_counted_by_their_code(bench, serve):
    """Of 8 clients, one at a time is admitted; whoever comes beside it is refused."""
    (run,) = bench(serve(max_queue=1, max_images=1), clients=8)["runs"]
    assert set(run["errors"]) == {"queue_full"}
    assert run["refusals"]["count"] == run["errors"]["queue_full"] > 0
    assert run["refusals"]["from_sent_ms"]["p99"] > 0
    assert run["ok"] > 0


def test_a_process_can_be_watched_instead_of_the_metrics(bench, serve):
    (run,) = bench(serve(), server_pid=os.getpid())["runs"]
    assert run["server"]["source"] == f"/proc/{os.getpid()}"
    assert run["server"]["cpu_s"] > 0
    assert run["server"]["rss_peak_bytes"] > 1e6


def test_an_image_that_is_never_answered_is_no_benchmark(bench, serve, tmp_path):
    (tmp_path / "images" / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ReferenceAnswerError, match=r"415 \(not_an_image\) even without load"):
        bench(serve())


def test_a_model_that_is_not_served_is_not_blamed_on_the_images(bench, serve):
    with pytest.raises(ReferenceAnswerError, match=r"404 \(unknown_model\) even without load$"):
        bench(serve(), model="nobody")


def test_no_server_is_told_in_one_line(bench, serve):
    client = serve()
    client.base_url = "http://127.0.0.1:1"
    with pytest.raises(TargetError, match="connect failed; is `resnet-serve serve` running there"):
        bench(client)


def test_another_host_is_refused_before_anything_is_sent(bench, serve, monkeypatch):
    client = serve()
    client.base_url = "http://192.0.2.1:8000"
    monkeypatch.setattr("service.bench.prepare.read_images", None)
    with pytest.raises(TargetError, match="loopback"):
        bench(client)

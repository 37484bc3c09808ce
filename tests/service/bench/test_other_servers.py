"""`resnet-serve bench` against a server of another kind that answers in the same form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from images import colored

from service.bench import monitor
from service.bench.cli import run_bench
from service.bench.machine import command_of
from service.bench.monitor import Monitor, process_tree
from service.bench.target import parse_target

PATH = "/predict/color?raw=1"


class Peer(ThreadingHTTPServer):
    """Knows one image and one label; keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.label = {"id": "red", "label": "red", "index": 0, "probability": 0.75}
        self.labels: dict[str, list[dict[str, object]]] = {}  # by path, where they are others
        self.timing, self.metrics = "", ""
        self.scrapes = 0
        self.may_tell = threading.Event()  # its metrics
        self.may_tell.set()
        self.paths = {PATH}
        self.got: object = {"detail": "Not Found"}
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes, and the second would wait 40 ms
    server: Peer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.path, headers, body))
        status = 200 if self.path in self.server.paths else 404
        labels = self.server.labels.get(self.path, [self.server.label])
        self._answer(status, json.dumps({"results": [{"labels": labels}]}))

    def do_GET(self) -> None:
        if self.path == "/metrics" and (self.server.metrics or not self.server.may_tell.is_set()):
            self.server.scrapes += 1
            self.server.may_tell.wait()
            self._answer(200, self.server.metrics)
        else:
            got = self.server.got
            self._answer(404, got if isinstance(got, str) else json.dumps(got))

    def _answer(self, status: int, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        if self.server.timing:
            self.send_header("Server-Timing", self.server.timing)
        self.send_header("Content-Length", str(len(data)))
        with contextlib.suppress(ConnectionError):  # whoever asked may have gone
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.may_tell.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def bench(peer: Peer, tmp_path: Path):
    (tmp_path / "red.png").write_bytes(colored("red"))
    json_file = tmp_path / "r.json"

    def run(**flags: object) -> tuple[int, dict]:
        arguments: dict[str, object] = {
            "url": peer.url, "path": PATH, "images": str(tmp_path), "duration": "0.5",
            "warm_up": "0.1", "clients": "2", "json_file": str(json_file),
            "html_file": str(tmp_path / "r.html"),
        }  # fmt: skip
        return run_bench(arguments | flags), json.loads(json_file.read_text())

    return run


def test_a_path_is_posted_to_as_it_is_given(bench, peer):
    status, report = bench()
    assert (status, report["tolerance"]) == (0, 0.001)
    assert report["runs"][0]["errors"] == {}
    assert report["runs"][0]["ok"] > 0
    assert {(path, body) for path, _, body in peer.asked} == {(PATH, colored("red"))}


def test_another_servers_answers_are_checked_against_the_model_file(bench, peer, model_folder):
    """The model is nearly sure of its answer, so what the server says is wrong."""
    local = {"reference": "local", "model_file": str(model_folder / "color.onnx")}
    status, report = bench(**local)
    assert status == 1
    assert set(report["runs"][0]["errors"]) == {"wrong_answer"}


def test_a_server_without_metrics_can_be_measured(bench):
    """What it does not tell is not known; it is no reason to fail."""
    _, report = bench()
    assert report["runs"][0]["server"]["cpu_s"] is None
    assert report["runs"][0]["server"]["batch_sizes"] == {}
    assert set(report["server"]) == {"url", "detail", "settings"}
    assert report["server"]["settings"] is None


@pytest.mark.parametrize(
    "said",
    [
        {}, [], '"all"', {"models": 3}, {"models": ["m", 1, None, {}]}, "[" * 100_000,
        '{"models": [], "x": [NaN, -Infinity, 1e999], "tolerance": NaN, "classes": 1e999}',
        '{"models": ["\\ud800"], "\\udfff": %s}' % ("[" * 300 + "]" * 300),
        '{"models": [{"default": true, "name": "\\ud800"}], "url": 1}',
        {"models": ["m", {"default": 1}]},
        {"models": [{"default": True, "name": "m"}], "tolerance": "none", "classes": 0},
    ],
)  # fmt: skip
def test_what_a_server_says_of_itself_in_another_form_is_passed_over(bench, peer, said):
    """It says the same to every GET: as its list of models, and of one of them."""
    peer.got, peer.paths = said, {"/v1/classify?top_k=1", "/v1/classify?top_k=2"}
    status, report = bench(path=None)
    assert (status, report["tolerance"]) == (0, 0.001)
    assert report["runs"][0]["agreement"] == 1


@pytest.mark.parametrize("sent", [True, False])
def test_the_deadline_can_be_kept_from_the_server(bench, peer, sent):
    _, report = bench(deadline_ms="4999.5", no_deadline_header=not sent)
    timeouts = {headers.get("x-request-timeout-ms") for _, headers, _ in peer.asked[1:]}
    assert timeouts == {"5000" if sent else None}
    run = report["runs"][0]
    assert run["goodput_per_s"] == run["throughput_per_s"] > 0


def test_goodput_is_counted_without_the_header_too(bench):
    _, report = bench(deadline_ms="0.001", no_deadline_header=True)
    run = report["runs"][0]
    assert run["goodput_per_s"] == 0
    assert run["past_deadline"] == run["ok"] > 0


def test_of_a_server_that_has_ended_nothing_is_told():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert process_tree(process.pid) == []
    assert command_of(process.pid) is None


def test_the_processes_of_a_server_are_watched_together(bench):
    """Its workers are its children, and it may have started them through others."""
    code = (
        "import subprocess, sys\n"
        "if n := int(sys.argv[1]):\n"
        "    subprocess.run([sys.executable, '-c', sys.argv[2], str(n - 1), sys.argv[2]])\n"
        "else:\n"
        "    print('up', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, "2", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert len(process_tree(process.pid)) == 3
        assert process.pid in {each.pid for each in process_tree(os.getpid())}
        _, report = bench(server_pid=str(process.pid))
        of_one = psutil.Process(process.pid).memory_info().rss
        process.communicate()
    server = report["runs"][0]["server"]
    assert server["source"] == f"/proc/{process.pid}"
    assert server["rss_peak_bytes"] > 2 * of_one


def test_what_a_server_may_call_its_models_is_in_the_report(bench, peer, tmp_path):
    peer.got = {"models": ["bare", {"name": "told", "version": 3, "precision": "fp16"}]}
    bench()
    assert "bare, told version 3 (fp16)</td>" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "metrics",
    [
        "process_cpu_seconds_total NaN\nprocess_resident_memory_bytes NaN\n",
        "process_cpu_seconds_total +Inf\nprocess_resident_memory_bytes 1e308\n",
        'resnet_serve_batch_size_bucket{le="x"} 1\nresnet_serve_batch_size_bucket 1\n',
        'resnet_serve_batch_size_bucket{le="1"} +Inf\n',
    ],
)
def test_figures_of_a_server_that_can_be_none_cost_no_report(bench, peer, metrics):
    peer.metrics, peer.timing = metrics, "infer;dur=nan, decode;dur=1e308, queue;dur=2"
    status, report = bench()
    (run,) = report["runs"]
    assert status == 0
    assert run["ok"] > 0
    assert (run["server"]["cpu_s"], run["server"]["batch_sizes"]) == (None, {})
    assert list(run["stages_ms"]) == ["queue"]


def watch(peer: Peer, seconds_ago: float) -> dict:
    """Watch for a time that began so long ago and is over by now."""

    async def main() -> dict:
        watching = Monitor(parse_target(peer.url), None, None)
        async with asyncio.timeout(60):
            await watching.watch(time.perf_counter() - seconds_ago, time.perf_counter())
        await watching.close()
        return watching.report()

    return asyncio.run(main())


def test_seconds_without_a_scrape_are_not_made_up_for(peer):
    peer.metrics = "process_cpu_seconds_total 1\nprocess_resident_memory_bytes 2\n"
    assert watch(peer, 8)["rss_peak_bytes"] == 2
    assert peer.scrapes == 2, "the first, and one at the end"


def test_a_server_that_hangs_is_not_waited_for_when_the_load_is_over(peer, monkeypatch):
    monkeypatch.setattr(monitor, "_SCRAPE_TIMEOUT_S", 60.0)
    monkeypatch.setattr(monitor, "_AFTER_END_S", 0.2)
    peer.may_tell.clear()
    assert watch(peer, 8)["cpu_s"] is None
    assert peer.scrapes <= 2


def test_batches_are_not_told_where_those_before_the_load_are_not_known(peer, monkeypatch):
    """All that the server ever ran would count."""
    monkeypatch.setattr(monitor, "_SCRAPE_TIMEOUT_S", 0.2)
    peer.metrics = 'resnet_serve_batch_size_bucket{le="1"} 1000\n'
    peer.may_tell.clear()
    scrape = Monitor._scrape

    async def then_tell(watching: Monitor, latest: float):
        scraped = await scrape(watching, latest)
        peer.may_tell.set()
        return scraped

    monkeypatch.setattr(Monitor, "_scrape", then_tell)
    assert watch(peer, 1)["batch_sizes"] == {}
    assert peer.scrapes == 2


def test_with_a_large_tolerance_labels_far_behind_the_best_are_known_too(bench, peer):
    """The reference gives `c` 0.1, so 0.34 is off by more than 0.2."""

    def label(name: str, probability: float) -> dict[str, object]:
        return {"id": name, "probability": probability}

    asked, references = "/v1/classify?top_k=1", "/v1/classify?top_k=4"
    peer.got = {"models": [{"default": True, "name": "m"}], "tolerance": 0.2, "classes": 4}
    peer.paths = {asked, references}
    peer.labels = {
        references: [label("a", 0.4), label("b", 0.15), label("d", 0.15), label("c", 0.1)],
        asked: [label("c", 0.34)],
    }
    status, report = bench(path=None)
    assert (status, set(report["runs"][0]["errors"])) == (1, {"wrong_answer"})


def test_a_run_in_which_nothing_was_sent_says_so(bench, capsys):
    _, report = bench(mode="poisson", rate="0.001", clients=None)
    assert report["runs"][0]["requests"] == 0
    assert "nothing was measured" in capsys.readouterr().out

"""`resnet-serve bench` against a server of another kind that answers in the same form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from images import colored

from service.bench.cli import run_bench
from service.bench.monitor import process_tree

PATH = "/predict/color?raw=1"


class Peer(ThreadingHTTPServer):
    """Knows one image and one label; keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.label = {"id": "red", "label": "red", "index": 0, "probability": 0.75}
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
        self._answer(status, {"results": [{"labels": [self._label()]}]})

    def do_GET(self) -> None:
        self._answer(404, self.server.got)

    def _label(self) -> dict[str, object]:
        return self.server.label

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
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
    assert set(report["server"]) == {"url", "detail"}


@pytest.mark.parametrize(
    "said",
    [
        {}, [], "all", {"models": 3}, {"models": ["m", {"default": 1}]},
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
        assert process.pid in process_tree(os.getpid())
        _, report = bench(server_pid=str(process.pid))
        of_one = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        process.communicate()
    server = report["runs"][0]["server"]
    assert server["source"] == f"/proc/{process.pid}"
    assert server["rss_peak_bytes"] > 2 * of_one * os.sysconf("SC_PAGE_SIZE")

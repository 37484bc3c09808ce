"""The comparison as a program, with our own server alone: the peers are not installed here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from color_model import write_color_model

HERE = Path(__file__).parents[3] / "benchmarks" / "peers"
INTERRUPTED = 130

# Leaves a process behind that has a session of its own, does not heed SIGTERM, and has lost its
# parent; then serves right answers.
STUBBORN = """
import http.server, json, os, signal, subprocess, sys
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
child = subprocess.Popen([sys.executable, "-c", "import subprocess, sys; subprocess.Popen("
    "[sys.executable, '-c', sys.argv[1] + '; time.sleep(600)'], start_new_session=True)", code],
    stdout=subprocess.PIPE)
child.stdout.readline(), child.wait()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
label = {"id": "red", "label": "red", "index": 0, "probability": 1.0}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({"results": [{"labels": [label]}]}).encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# In a process of its own: stopping a server ends whatever this process is the parent of.
RUN_STUBBORN = """
import os, sys
from pathlib import Path
sys.path.append(sys.argv[1])
import processes
from work import free_port
from service.bench.monitor import process_tree
processes._STOP_S = 0.2
processes.adopt_orphans()
port = free_port()
folder = Path(sys.argv[2])
command = [sys.executable, "-c", sys.argv[3], str(port)]
with processes.running(command, dict(os.environ), folder) as server:
    server.wait_until_right(f"http://127.0.0.1:{port}/", b"image")
    assert len(process_tree(server.pid)) == 2, process_tree(os.getpid())
    memory = server.memory_bytes()
    assert memory["rss"] >= memory["pss"] > 1e6, memory
    assert server.others_cpu_s() > 0
assert [process.pid for process in process_tree(os.getpid())] == [os.getpid()]
broken = [sys.executable, "-c", "raise SystemExit('no model')"]
try:
    with processes.running(broken, dict(os.environ), folder) as server:
        server.wait_until_right(f"http://127.0.0.1:{port}/", b"image")
except processes.ServerFailedError as error:
    print(error)
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    model_file = tmp_path / "color.onnx"
    write_color_model(model_file)
    (tmp_path / "tmp").mkdir()

    def run(*flags: str) -> subprocess.Popen[str]:
        command = [
            sys.executable, str(HERE / "run.py"), "--servers", "resnet-serve", "--model-file",
            str(model_file), "--images", "synthetic:32x32", "--image-count", "3", "--clients",
            "1,2", "--duration", "0.6", "--warm-up", "0.1", "--no-limits",
            "--output", str(tmp_path / "r" / "peers.json"), *flags,
        ]  # fmt: skip
        return subprocess.Popen(
            command, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return run


def test_rounds_give_a_table_and_a_result_file(start, tmp_path):
    printed, said = start("--rounds", "2").communicate()
    result = json.loads((tmp_path / "r" / "peers.json").read_text())
    assert "| resnet-serve " in printed, said
    assert "round 2/2: resnet-serve" in said
    assert len(result["rounds"]) == 2
    assert set(result["summary"]) == {"1", "2"}
    for figures in result["summary"].values():
        assert figures["resnet-serve"]["per_s"] > 0
        assert figures["resnet-serve"]["errors"] == 0
        assert figures["resnet-serve"]["pss_mib"] > 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_interruption_leaves_a_result_and_no_process(start, tmp_path):
    with start("--rounds", "1000") as program:
        assert program.stdout is not None
        assert program.stderr is not None
        while "1 clients" not in program.stderr.readline():
            assert program.poll() is None
        program.send_signal(signal.SIGINT)
        printed, _ = program.communicate()
    assert "Interrupted" in printed
    assert program.returncode == INTERRUPTED
    result = json.loads((tmp_path / "r" / "peers.json").read_text())
    assert result["interrupted"]
    assert result["summary"]["1"]["resnet-serve"]["per_s"] > 0
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not [link for link in Path("/proc").glob("[0-9]*/cwd") if _leads_to(link, tmp_path)]


def _leads_to(link: Path, folder: Path) -> bool:
    try:
        return link.readlink().is_relative_to(folder)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--servers", "mosec,triton"],
            "triton: not one of resnet-serve, resnet-serve-auto",
        ),
        (["--clients", "1,none"], "'none' is not a whole number of at least 1"),
        (["--rounds", "0"], "'0' is not a whole number"),
        (["--images", "/nowhere"], "run.py: error: --images /nowhere"),
        (["--model-file", "/nowhere.onnx"], "/nowhere.onnx: no such file"),
        (["--model", "m"], "--model"),
    ],
)
def test_a_bad_flag_is_told_before_anything_starts(start, flags, said):
    program = start(*flags)
    printed, errors = program.communicate()
    assert said in errors
    assert "Traceback" not in errors
    assert program.returncode != 0
    assert printed == ""


def test_of_a_server_that_does_not_heed_nothing_is_left(tmp_path):
    """Nor of its descendants that have left its session and lost their parents."""
    ended = subprocess.run(
        [sys.executable, "-c", RUN_STUBBORN, str(HERE), str(tmp_path), STUBBORN],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("ended with status 1\n  no model"), ended.stdout

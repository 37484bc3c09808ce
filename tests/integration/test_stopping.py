"""Stopping the real process: no accepted request is left without an answer."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from images import colored, top_label
from process import PROGRAM, answering, clean_environment, client_of, serving
from wire import connect, head, read_all, read_answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_idle_server_stops_with_status_0(model_folder, number):
    """Even with an open keep-alive connection."""
    with serving("--models", model_folder) as server, client_of(server) as client:
        assert client.get("/readyz").status_code == 200
        server.signal(number)
        assert server.wait_for("draining")["signal"] == number.name
        assert server.exit_status() == 0
        assert server.events[-1]["event"] == "stopped"


def test_sighup_is_passed_over_where_it_was_ignored_at_the_start(model_folder):
    """As with nohup: the service outlives its terminal."""
    program = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *PROGRAM]
    with serving("--models", model_folder, program=program) as server:
        assert not catches(server.process.pid, signal.SIGHUP)
        server.signal(signal.SIGHUP)
        with client_of(server) as client:
            assert client.get("/readyz").status_code == 200
        server.signal()
        assert server.exit_status() == 0
        assert [e["signal"] for e in server.events if e["event"] == "draining"] == ["SIGTERM"]


def test_readiness_goes_first_and_requests_are_served_meanwhile(model_folder):
    """For `drain_delay_s` the probe fails, so that load balancers notice; work goes on.

    SIGHUP does not cut it short: a closing terminal sends it more than once, and systemd
    right after SIGTERM.
    """
    with serving("--models", model_folder, "--drain-delay-s", 3) as server:
        server.signal()
        server.wait_for("draining")
        server.signal(signal.SIGHUP)
        with client_of(server) as fresh:
            assert fresh.get("/readyz").json()["reasons"] == ["draining"]
            assert fresh.get("/livez").status_code == 200
            assert top_label(fresh.post("/v1/classify", content=colored("blue"))) == "blue"
        assert server.exit_status() == 0


def test_an_accepted_request_is_answered_before_the_end(model_folder):
    """Its batch waits in the queue when SIGTERM comes, since the delay is long."""
    with serving("--models", model_folder, "--max-delay-ms", 10_000) as server:
        body = colored("green")
        with connect(server.url) as connection:
            connection.sendall(head(Content_Length=len(body)) + body)
            with client_of(server) as client:
                while client.get("/health").json()["models"][0]["queue"]["images"] == 0:
                    pass
            server.signal()
            server.wait_for("draining")
            status, answer = read_answer(connection)
        assert status == 200
        assert b"green" in answer
        assert server.exit_status() == 0
        with pytest.raises(httpx.ConnectError), client_of(server) as client:
            client.get("/livez")


def test_a_request_that_outlasts_drain_timeout_is_told_so(model_folder):
    """It gets a 503 instead of a reset, and the exit status reports the unanswered request."""
    flags = ["--models", model_folder, "--drain-timeout-s", 1, "--body-timeout-s", 60]
    with serving(*flags) as server:
        with connect(server.url) as connection:
            connection.sendall(head(Content_Length=100) + b"x")
            with client_of(server) as client:
                while "resnet_serve_inflight_bytes 1.0" not in client.get("/metrics").text:
                    pass
            server.signal()
            status, answer = read_answer(connection)
        assert status == 503
        assert b'"code":"stopping"' in answer
        assert server.exit_status() == 1


def test_an_answer_in_the_drain_delay_sends_the_next_request_elsewhere(model_folder):
    """The request came before the signal; another one on its connection would be lost."""
    with serving("--models", model_folder, "--drain-delay-s", 3) as server:
        body = colored("green")
        with connect(server.url) as connection:
            connection.sendall(head(Content_Length=len(body)) + body[:-1])
            with client_of(server) as client:
                while f"inflight_bytes {len(body) - 1}.0" not in client.get("/metrics").text:
                    pass
            server.signal()
            server.wait_for("draining")
            connection.sendall(body[-1:])
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
        assert server.exit_status() == 0


def test_a_stop_that_meets_the_sending_of_an_error_loses_and_logs_nothing(model_folder):
    """The refused client keeps sending, and is still being read when the time is over."""
    flags = ["--models", model_folder, "--max-body-bytes", 1000, "--drain-timeout-s", 1]
    with serving(*flags) as server:
        with connect(server.url) as connection:
            connection.sendall(head(Transfer_Encoding="chunked") + b"800\r\n" + b"x" * 2048)
            answer = connection.recv(65536)
            server.signal()
            answer += read_all(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"0\r\n\r\n") or b'"code":"body_too_large"' in answer
        assert server.exit_status() == 0
    assert [event for event in server.events if "exception" in event] == []


# A starting process's memory mappings show how far it has come.
STAGES = {"before anything is imported": "", "settings": "pydantic_core", "engine": "onnxruntime"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_while_starting_ends_it_at_once_and_cleanly(model_folder, stage, number):
    """As process 1 of a container, the signal would be lost without an early handler."""
    command = [*PROGRAM, "serve", "--port", "0", "--models", str(model_folder)]
    with subprocess.Popen(command, env=clean_environment(), stderr=subprocess.PIPE) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while not catches(process.pid, number) or STAGES[stage] not in maps.read_text("utf-8"):
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    mask = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


@pytest.mark.parametrize("reader", ["gone", "asleep"])
def test_a_log_that_nobody_reads_holds_up_neither_requests_nor_signals(model_folder, reader):
    """As with a pipe whose reader has ended or stopped reading."""
    command = [*PROGRAM, "serve", "--models", str(model_folder)]
    with answering(command, stderr=subprocess.PIPE) as (process, client):
        assert process.stderr is not None
        if reader == "gone":
            process.stderr.close()
        for _ in range(600):  # some 250 KB of log, more than a pipe holds
            assert client.post("/v1/classify", content=b"x").status_code == 415


def test_a_second_signal_ends_at_once(model_folder):
    """The exit status is that of a killed process."""
    with serving("--models", model_folder, "--drain-delay-s", 600) as server:
        server.signal()
        server.wait_for("draining")
        server.signal()
        assert server.exit_status() == 128 + signal.SIGTERM

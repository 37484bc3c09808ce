"""The doors of other servers' protocols, loaded by turns with wrk and h2load."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doors import Sending, measure_doors, render, summary_of
from doors_load import H2LOAD, WRK, doors, h2load_counts, what_is_missing
from simulated_processes import serving_simulated
from startup import free_port

from service.models.files import builtin_file

ROOT = Path(__file__).parents[2]
DOORS = ["/v1/classify", "V2 REST", "V2 REST, no JSON", "V2 gRPC"]


def given(**changes) -> argparse.Namespace:
    return argparse.Namespace(**{"rounds": 2, "duration": 1, "clients": 8, "streams": 4} | changes)


@pytest.mark.full
def test_the_doors_are_loaded_by_turns_and_all_answer():
    """Forth, and then back."""
    assert what_is_missing() is None, what_is_missing()
    rows = measure_doors(given(), {1: 1.0, 8: 2.0}, ["--runners", "1"])
    assert [(row["round"], row["door"]) for row in rows] == [
        *((0, door) for door in DOORS),
        *((1, door) for door in DOORS[::-1]),
    ]
    assert all(row["errors"] == 0 for row in rows)
    assert all(row["per_s"] > 0 and row["cpu_ms"] > 0 for row in rows)


@pytest.mark.full
def test_a_door_without_answers_is_an_error():
    with pytest.raises(RuntimeError, match="/v1/classify gave no answer"):
        measure_doors(given(), {1: 1.0}, ["--max-body-bytes", "100"])


@pytest.mark.full
@pytest.mark.parametrize("number", [1, 2, 3])
def test_requests_that_are_refused_do_not_count(number, tmp_path):
    """As over gRPC, where h2load sees a 200 for each of them."""
    port = free_port()
    refused = doors("nope", b"", np.zeros((64, 64, 3), np.uint8))[number]
    with serving_simulated("service", {1: 1.0}, ["--grpc-port", str(port)]) as server:
        http = server.url.removeprefix("http://")
        addresses = {WRK: http, H2LOAD: f"127.0.0.1:{port}"}
        sending = Sending(given(), server, builtin_file().name, addresses, tmp_path)
        with pytest.raises(RuntimeError, match=f"{refused.name} gave no answer"):
            sending.load(refused, 1)


def test_a_report_of_h2load_is_read():
    said = "finished in 1.50s, 100.00 req/s, 1.2MB/s\nrequests: 150 total, 154 started, 150 done, "
    assert h2load_counts(f"{said}148 succeeded, 2 failed, 1 errored, 1 timeout\n") == {
        "answers": 148, "seconds": 1.5, "errors": 2,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="h2load printed no report: could not connect"):
        h2load_counts("could not connect")


def test_ratios_are_of_one_round():
    def row(round_: int, door: str, per_s: float) -> dict:
        rest = {"cpu_ms": 0.5, "server_cores": 1.0, "others": 0.2, "errors": round_}
        goal = None if door == "/v1/classify" else 0.6
        return {"round": round_, "door": door, "goal": goal, "per_s": per_s} | rest

    rows = [
        row(0, "/v1/classify", 100), row(0, "V2 gRPC", 50),
        row(1, "V2 gRPC", 140), row(1, "/v1/classify", 200),
        row(2, "/v1/classify", 400), row(2, "V2 gRPC", 200),
    ]  # fmt: skip
    _, grpc = summary_of(rows)
    assert (grpc["ratio"], grpc["least"], grpc["most"]) == (0.5, 0.5, 0.7)
    assert (grpc["per_s"], grpc["errors"]) == (140, 3)
    assert "0.6 missed" in render(summary_of(rows))


def test_a_missing_program_is_told_in_one_line(tmp_path):
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "doors.py")],
        env=os.environ | {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "doors: error: wrk is not installed (Debian's package wrk)\n"

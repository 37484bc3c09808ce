"""Pages as a browser shows them, without another host."""

from __future__ import annotations

import subprocess

import pytest
from process import PROGRAM, clean_environment, serving
from system import page

pytestmark = pytest.mark.full

ALONE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


def test_the_description_of_the_api_is_shown(tmp_path):
    with serving() as server:
        shown = page(f"{server.url}/docs", tmp_path, ALONE)
    assert "/v1/classify" in shown
    assert "opblock" in shown, "Swagger UI has drawn its operations"
    assert "Failed to load API definition" not in shown


def test_a_report_of_load_is_shown(tmp_path):
    report = tmp_path / "report.html"
    with serving() as server:
        command = [
            *PROGRAM, "bench", "--url", server.url, "--images", "synthetic:64x64", "--clients",
            "2", "--duration", "2", "--warm-up", "0.5", "--html", str(report),
        ]  # fmt: skip
        subprocess.run(command, env=clean_environment(), check=True, timeout=110)
    shown = page(report.as_uri(), tmp_path / "browser", ALONE)
    assert "<svg" in shown
    assert "latency" in shown.lower()

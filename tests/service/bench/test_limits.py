"""What the machine could do without a server."""

from __future__ import annotations

import json

import pytest

from service.bench import limits, rates
from service.bench.cli import run_bench


def test_layouts_have_at_most_two_threads_a_core():
    assert limits.layouts(2) == [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)]
    assert (3, 3) not in limits.layouts(3)
    assert all(callers * threads <= 12 for callers, threads in limits.layouts(6))
    assert (6, 1) in limits.layouts(6)
    assert (1, 6) in limits.layouts(6)


def test_both_limits_are_measured_and_reported(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rates, "SECONDS", 0.01)
    flags = {
        "limits": True, "images": "synthetic:32x32", "image_count": "4", "repeats": "2",
        "model_file": str(model_folder / "color.onnx"), "json_file": str(tmp_path / "r.json"),
        "html_file": str(tmp_path / "r.html"),
    }  # fmt: skip
    assert run_bench(flags) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert "runs" not in report, "with --limits alone no server is asked for anything"
    found = report["limits"]
    assert {row["batch"] for row in found["model"]} == set(limits.BATCHES)
    for row in [*found["model"], *found["pipeline"]]:
        assert 0 < row["least"] <= row["images_per_s"] <= row["most"]
    assert found["best_model"]["images_per_s"] == max(r["images_per_s"] for r in found["model"])
    assert found["pipeline"][0]["name"] == "one loop on one thread"
    printed = capsys.readouterr().out
    assert "callers x intra-op threads" in printed
    assert "one loop on one thread" in printed
    assert "Limits without a server" in (tmp_path / "r.html").read_text()


def test_a_failure_on_a_thread_is_not_lost(monkeypatch):
    monkeypatch.setattr(rates, "SECONDS", 0.01)

    def broken() -> int:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        rates.rate_of([broken, broken])

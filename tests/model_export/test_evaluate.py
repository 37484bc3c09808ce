"""Accuracy, calibration and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from color_model import COLORS, write_color_model
from hypothesis import given, settings
from hypothesis import strategies as st
from images import encode
from photos import photo_folder
from PIL import Image

from model_export.cli import main
from model_export.evaluate import evaluate
from model_export.model_file import read_model
from service.engine.onnx import load_engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Names the strongest colour."""
    return write_color_model(tmp_path / "color.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """18 images in a folder for each colour, of which 3 lie in a wrong one."""
    folder = photo_folder(tmp_path / "photos")
    for seed in range(3):
        (folder / "red" / f"{seed}.jpg").rename(folder / "blue" / f"was-red-{seed}.jpg")
    return folder


def test_top1_and_classes_are_counted(model: Path, photos: Path):
    """The worst class comes first; with three classes all answers are among the first five."""
    engine = load_engine(model, provider="cpu")
    result = evaluate(engine, read_model(model)[1], photos)
    assert (result.images, result.top1, result.top5) == (18, 15 / 18, 1.0)
    worst = result.classes[0]
    assert (worst.label, worst.images, worst.top1) == ("blue", 9, 6 / 9)
    assert {c.label: c.top1 for c in result.classes[1:]} == {"red": 1.0, "green": 1.0}
    assert sum(one.images for one in result.bins) == 18
    assert all(one.low <= one.confidence <= one.high for one in result.bins)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 255), st.booleans()), min_size=1, max_size=12))
def test_calibration_error_is_the_mean_distance_of_confidence_and_accuracy(tmp_path_factory, drawn):
    """Guo et al.'s expected calibration error, over 15 bins, computed here by its definition."""
    folder = tmp_path_factory.mktemp("drawn")
    model = write_color_model(folder / "color.onnx")
    for number, (level, right) in enumerate(drawn):
        name = "red" if right else "green"
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), (255, level, 0), np.uint8)
        (folder / "images" / name / f"{number}.png").write_bytes(encode(Image.fromarray(pixels)))
    result = evaluate(load_engine(model, provider="cpu"), read_model(model)[1], folder / "images")
    rows: dict[int, list[tuple[float, bool]]] = {}
    for level, right in drawn:
        exp = np.exp(0.05 * np.array([255, level, 0.0]))
        confidence = float((exp / exp.sum()).max())
        answer_is_red = level <= 255  # the first of equals is the label
        hit = right if answer_is_red else not right
        rows.setdefault(min(int(confidence * 15), 14), []).append((confidence, hit))
    error = sum(
        abs(sum(c for c, _ in row) - sum(h for _, h in row)) for row in rows.values()
    ) / len(drawn)
    assert result.calibration_error == pytest.approx(error, abs=1e-4)


def test_the_command_shows_writes_and_plots(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plot = tmp_path / "plot.html"
    command = ["evaluate", str(model), str(photos), "--write", "--plot", str(plot)]
    assert main([*command, "--data-set", "Colours"]) == 0
    out = capsys.readouterr().out
    assert "top-1 83.33%, top-5 100.00% on 18 images of Colours" in out
    for label in COLORS:
        assert label in out
    accuracy = read_model(model)[1].accuracy
    assert accuracy is not None
    assert (accuracy.data_set, accuracy.images, accuracy.top1) == ("Colours", 18, 15 / 18)
    assert "<svg" in plot.read_text()
    assert main(["verify", str(model)]) == 0  # still a model file


def test_json_has_all_classes(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(model), str(photos), "--json", "--limit", "6"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["data_set"]) == (6, "photos")
    assert {row["label"] for row in result["classes"]} == set(COLORS)  # not only the first


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--write", "--limit", "3"], 2, "--write is for all images"),
        (["--plot", "."], 2, "--plot .: is a folder"),
        ([], 1, "blue/broken.jpg: the content is not in an accepted image format"),
    ],
)
def test_mistakes_are_one_line(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str], more, status, message
):
    (photos / "blue" / "broken.jpg").write_bytes(b"hello")
    assert main(["evaluate", str(model), str(photos), *more]) == status
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert read_model(model)[1].accuracy is None

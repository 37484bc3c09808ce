"""`resnet-export allow`: a faster precision is allowed by what was measured of it, or not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from color_model import ALLOWED, write_color_model
from openvino_cpu import cpu_with, needs_bf16
from photos import photo_folder

from model_export import allow
from model_export.cli import main
from model_export.model_file import read_model, rewrite_contract
from service.contract import wilson_lower_bound
from service.cpus import cpu_model
from service.engine import openvino_library
from service.engine.onnx import load_engine
from service.engine.providers import CUDA, EngineOptions
from service.golden import check_golden
from service.models.files import builtin_file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The built-in model, without what it allows."""
    path = Path(shutil.copy(builtin_file().path, tmp_path / "net.onnx"))
    rewrite_contract(path, read_model(path)[1].model_copy(update={"allowed": None}))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """18 images."""
    return photo_folder(tmp_path / "photos")


def refusal(capsys, *arguments: object) -> str:
    """The one line with which the command ends."""
    assert main(["allow", *map(str, arguments)]) != 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def no_bf16():
    """A CPU that computes in float32 alone."""
    with cpu_with("FP32", "INT8"):
        yield


@needs_bf16
def test_what_was_measured_is_written_and_makes_the_file_be_computed_so(model, photos, capsys):
    before, graph = read_model(model)[1], read_model(model)[0].graph
    given = ["--precision", "bf16", "--images", photos, "--min-agreement", "0.5"]
    assert main(["allow", str(model), *map(str, given)]) == 0
    written_graph, contract = read_model(model)
    assert written_graph.graph == graph
    assert contract.allowed is not None
    entry = contract.allowed["bf16"]
    assert contract.model_copy(update={"allowed": None}) == before
    assert (entry.source, entry.images, entry.provider) == ("photos", 18, "openvino")
    assert entry.device == cpu_model()
    assert entry.tools == {"openvino": openvino_library.version().split()[1]}
    assert 0 < entry.mean_abs_diff < entry.max_abs_diff < entry.tolerance
    assert entry.lower_bound == wilson_lower_bound(entry.same_labels, 18)
    assert "in bf16" in capsys.readouterr().out
    engine = load_engine(model, provider="openvino", options=EngineOptions(precision="auto"))
    assert engine.rounds_to == "bf16"
    report = check_golden(engine, contract, 1)
    assert report.failures == ()
    assert 1e-4 < report.max_abs_diff < report.tolerance == entry.tolerance


@needs_bf16
def test_a_file_that_agrees_too_little_stays_as_it_was(model, photos, capsys):
    """18 images of which each agrees prove 82 % and no more."""
    before = model.read_bytes()
    message = refusal(capsys, model, "--precision", "bf16", "--images", photos)
    assert "not allowed, since at least 95.00% is required (--min-agreement)" in message
    assert model.read_bytes() == before


@needs_bf16
@pytest.mark.parametrize("off", [0.6, float("nan")])
def test_a_file_whose_golden_cases_would_be_too_far_off_stays_as_it_was(
    model, photos, capsys, monkeypatch, off
):
    """It would not serve, whatever the images say."""
    before = model.read_bytes()

    def checked(*arguments):
        return replace(check_golden(*arguments), max_abs_diff=off)

    monkeypatch.setattr(allow, "check_golden", checked)
    given = ["--precision", "bf16", "--images", photos, "--min-agreement", "0"]
    assert f"a golden case differs by {off:.3g} in bf16" in refusal(capsys, model, *given)
    assert model.read_bytes() == before


@needs_bf16
def test_the_first_images_can_be_all(model, photos):
    given = ["--images", str(photos), "--limit", "3", "--min-agreement", "0", "--data-set", "Ours"]
    assert main(["allow", str(model), "--precision", "bf16", *given]) == 0
    allowed = read_model(model)[1].allowed
    assert allowed is not None
    assert (allowed["bf16"].images, allowed["bf16"].source) == (3, "Ours")


@pytest.mark.openvino
def test_a_cpu_that_lacks_it_is_not_asked_to_measure_float32_against_itself(
    tmp_path, photos, capsys, no_bf16
):
    model = write_color_model(tmp_path / "x.onnx")
    message = refusal(capsys, model, "--precision", "bf16", "--images", photos)
    assert f"can't be measured on this machine: {cpu_model()} does not support it" in message
    assert read_model(model)[1].allowed is None


@pytest.mark.skipif(CUDA.lack() is None, reason="has CUDA")
def test_without_a_gpu_tf32_is_not_measured(tmp_path, photos, capsys):
    model = write_color_model(tmp_path / "x.onnx")
    message = refusal(capsys, model, "--precision", "tf32", "--images", photos)
    assert str(CUDA.lack()) in message
    assert "was asked for" not in message


@needs_bf16
def test_a_device_that_does_not_keep_its_word_is_found_out(model, photos, capsys, monkeypatch):
    def exactly(path, *, provider, options):
        return load_engine(path, provider=provider)

    monkeypatch.setattr(allow, "load_engine", exactly)
    message = refusal(capsys, model, "--precision", "bf16", "--images", photos)
    assert "computes this file in float32 although bf16 was requested" in message


def test_only_float32_files_are_allowed_more(tmp_path, photos, capsys):
    model = write_color_model(tmp_path / "x.onnx", precision="int8")
    message = refusal(capsys, model, "--precision", "bf16", "--images", photos)
    assert "its precision is int8; a faster one can only be allowed for float32 files" in message


def test_describe_shows_what_a_file_allows(tmp_path, capsys):
    model = write_color_model(tmp_path / "x.onnx", allowed={"bf16": ALLOWED})
    assert main(["describe", str(model)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "in bf16, 99.00% of 2000 images (photos) get the same label as in float32" in shown
    assert "at least 98.4" in shown
    assert main(["describe", str(write_color_model(tmp_path / "y.onnx"))]) == 0
    assert "│ allowed                │ none" in capsys.readouterr().out


# What is allowed is seen where it is asked for


@needs_bf16
def test_verify_and_evaluate_compute_in_it_only_when_asked_to(model, photos, capsys):
    given = ["--precision", "bf16", "--images", str(photos), "--min-agreement", "0"]
    assert main(["allow", str(model), *given]) == 0
    differences = {}
    for precision in ("exact", "auto"):
        capsys.readouterr()
        asked = ["--provider", "openvino", "--precision", precision]
        assert main(["verify", str(model), *asked]) == 0
        said = capsys.readouterr().out
        differences[precision] = float(said.split("max difference ")[1].split()[0])
    assert differences["exact"] < 1e-5
    assert differences["auto"] > 1e-4
    assert main(["verify", str(model)]) == 0


@pytest.mark.openvino
def test_accuracy_in_another_precision_is_not_written_into_a_file(tmp_path, photos, capsys):
    model = write_color_model(tmp_path / "x.onnx")
    given = ["--provider", "openvino", "--precision", "auto"]
    assert main(["evaluate", str(model), str(photos), *given]) == 0
    assert main(["evaluate", str(model), str(photos), *given, "--write"]) != 0
    assert "--write is for the file's own precision" in capsys.readouterr().err

"""Answers of real servers are right within the tolerance of the model as it is computed there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from color_model import color_contract, write_color_model
from images import colored, encode
from numpy.typing import NDArray
from PIL import Image

from service.bench.cli import run_bench

Floats = NDArray[np.float32]
processes = pytest.mark.parametrize("processes", ["1", "2"])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "red.png").write_bytes(colored("red"))
    return folder


@pytest.fixture
def bench(images, tmp_path) -> Callable[..., tuple[int, dict]]:
    """Gives a function that runs the program and gives its status and its report."""

    def run(url: object, **flags: str) -> tuple[int, dict]:
        arguments = {
            "url": str(url), "images": str(images), "duration": "0.6", "warm_up": "0.1",
            "json_file": str(tmp_path / "r.json"), "html_file": str(tmp_path / "r.html"),
        }  # fmt: skip
        return run_bench(arguments | flags), json.loads((tmp_path / "r.json").read_text())

    return run


def drift(by: float) -> Callable[[int, Floats], Floats]:
    """Change all answers but the first, the reference's."""

    def change(number: int, answer: Floats) -> Floats:
        if number == 1:
            return answer
        best = answer.argmax(axis=1, keepdims=True) == np.arange(answer.shape[1])
        return answer + np.where(best, -by, by / 2).astype(np.float32)

    return change


def write(model_folder: Path, cpu: float, name: str = "color") -> None:
    contract = color_contract(name=name, tolerances={"cpu": {"fp32": cpu}, "cuda": {"fp32": 0.5}})
    write_color_model(model_folder / f"{name}.onnx", contract)


@processes
@pytest.mark.parametrize("reference", ["server", "local"])
def test_what_is_off_by_less_than_the_servers_tolerance_is_right(
    bench, serve, answering, model_folder, reference, processes
):
    write(model_folder, 0.02)
    client = serve()
    answering(drift(0.019))
    local = {"model_file": str(model_folder / "color.onnx")} if reference == "local" else {}
    status, report = bench(client.base_url, reference=reference, processes=processes, **local)
    assert (status, report["tolerance"]) == (0, 0.02)
    assert report["runs"][0]["errors"] == {}
    assert report["runs"][0]["agreement"] == 1


@processes
def test_what_is_off_by_more_is_wrong(bench, serve, answering, model_folder, processes):
    write(model_folder, 0.02)
    client = serve()
    answering(drift(0.021))
    status, report = bench(client.base_url, processes=processes)
    (run,) = report["runs"]
    assert status == 1
    assert run["errors"] == {"wrong_answer": run["requests"]}
    assert run["agreement"] is None


@processes
def test_labels_that_change_within_the_tolerance_lower_the_agreement_alone(
    bench, serve, answering, model_folder, images, capsys, processes
):
    # Each colour is as probable as the others.
    (images / "red.png").write_bytes(encode(Image.new("RGB", (8, 8), "gray")))
    write(model_folder, 0.02)
    client = serve()
    shifts = np.array([[0.01, -0.01, 0], [-0.01, 0.01, 0]], np.float32)
    answering(lambda number, right: right if number == 1 else right + shifts[number % 2])
    status, report = bench(client.base_url, processes=processes)
    (run,) = report["runs"]
    assert (status, run["errors"]) == (0, {})
    assert 0 < run["changed_labels"] < run["ok"] == run["requests"]
    assert run["agreement"] == 1 - run["changed_labels"] / run["ok"]
    said = f"{run['agreement']:.2%} have the reference's best label"
    assert said in capsys.readouterr().out
    assert said in (images.parent / "r.html").read_text().replace("&#x27;", "'")


def test_the_tolerance_is_that_of_the_model_that_is_asked_for(bench, serve, model_folder):
    write(model_folder, 0.03, "other")
    client = serve(default_model="color")
    tolerances = [
        bench(client.base_url, **flags)[1]["tolerance"]
        for flags in ({}, {"model": "other"}, {"model": "color"}, {"path": "/v1/classify"})
    ]
    assert tolerances == [1e-4, 0.03, 1e-4, 1e-3], "nobody knows what model a path means"

"""The model files that benchmarks are run with."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from models import RECIPES, Recipe, make_model, random_network

from service.golden import golden_pattern
from service.metrics import Metrics
from service.models.loader import load_repository
from service.settings import Settings

TINY = Recipe("resnet18", 8, "small", side=32, resize=32, classes=5)


def test_a_made_file_is_served(tmp_path):
    path = make_model("tiny", TINY, tmp_path)
    assert path == tmp_path / "tiny.onnx"
    (served,) = load_repository(Settings(models=tmp_path, max_batch=2), Metrics())
    served.warm_up(threading.Event())
    assert (served.name, served.state, served.reason) == ("tiny", "ready", "")
    assert served.contract.weights.source == "random, seed 0"
    assert len(served.contract.labels) == TINY.classes


def test_a_refused_export_is_no_file(tmp_path, capsys):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(RuntimeError, match="status 2"):
        make_model("folder", TINY, tmp_path)
    assert "is a folder" in capsys.readouterr().err


def test_random_weights_tell_images_apart():
    pixels = np.stack([golden_pattern(seed, TINY.side) for seed in range(20, 32)])
    with torch.inference_mode():
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(116).div(58)
        logits = random_network(TINY)(x)
    assert len(set(logits.argmax(dim=1).tolist())) > 1
    assert torch.softmax(logits, dim=1).max() < 0.999


def test_random_weights_follow_from_the_seed():
    first, again, other = (random_network(TINY, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_the_recipes_are_the_networks_that_the_figures_name():
    light, full = RECIPES["light"], RECIPES["resnet50"]
    assert (light.architecture, light.base_width, light.side) == ("resnet50", 16, 64)
    assert (full.architecture, full.base_width, full.side) == ("resnet50", 64, 224)

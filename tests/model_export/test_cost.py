"""Cost is counted from the file alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exports import exported
from networks import preprocessing, random_network

from model_export.architectures.build import build
from model_export.cost import graph_cost
from model_export.graph import prepare, to_onnx
from model_export.options import Storage


def test_multiply_adds_are_the_published_ones():
    """At 224 x 224 pixels and full width, as torchvision documents them."""
    cost = graph_cost(to_onnx(prepare(build("resnet18"), preprocessing(224), "fp32"), (224, 224)))
    assert cost.multiply_adds / 1e9 == pytest.approx(1.814, abs=0.001)


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_parameters_are_those_left_after_folding(storage: Storage, shared: Path):
    """Each normalisation's weight and bias have become one bias."""
    network = random_network("resnet18")
    trained = sum(parameter.numel() for parameter in network.parameters())
    folded = sum(
        module.num_features
        for module in network.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    )
    served = prepare(network, preprocessing(32), storage)
    cost = graph_cost(exported(shared, served, (32, 32), storage))
    assert cost.parameters == trained - folded

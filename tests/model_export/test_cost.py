"""Cost is counted from the file alone."""

from __future__ import annotations

import pytest
import torch
from networks import preprocessing, random_network

from model_export.architectures.build import build
from model_export.cost import graph_cost
from model_export.graph import prepare, to_onnx


@pytest.mark.parametrize(
    ("architecture", "giga"), [("resnet18", 1.814), ("resnet50", 4.089)]
)  # as torchvision documents them
def test_multiply_adds_are_the_published_ones(architecture: str, giga: float):
    """At 224 x 224 pixels and full width."""
    cost = graph_cost(to_onnx(prepare(build(architecture), preprocessing(224), "fp32"), 224))
    assert cost.multiply_adds / 1e9 == pytest.approx(giga, abs=0.001)


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_parameters_are_those_left_after_folding(storage: str):
    """Each normalisation's weight and bias have become one bias."""
    network = random_network("resnet18")
    trained = sum(parameter.numel() for parameter in network.parameters())
    folded = sum(
        module.num_features
        for module in network.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    )
    cost = graph_cost(to_onnx(prepare(network, preprocessing(32), storage), 32, storage))
    assert cost.parameters == trained - folded

"""PyTorch's own answers, which a model file is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model_export.architectures.resnet import ResNet, pool
from model_export.graph import ServedNetwork, Storage
from service.contract import PROBABILITIES, Preprocessing

Outputs = Mapping[str, NDArray[np.float32]]
"""A model file's outputs by name, see `service.contract`."""

Reference = Callable[[NDArray[np.uint8]], Outputs]
"""Maps images uint8 [N, H, W, 3] to the outputs expected for them."""


@dataclass(frozen=True, slots=True)
class References:
    """What a file is compared with.

    `trained` is the network as it was trained. `exact` computes with the very weights of the
    file, so it may be held to the rounding of float32 arithmetic; for weights stored as float32
    the two are one.
    """

    trained: Reference
    exact: Reference


def references(
    network: ResNet, served: ServedNetwork, preprocessing: Preprocessing, storage: Storage
) -> References:
    """Make the references of a trained network and the form of it (`prepare`) that is written."""
    trained = _trained(network, preprocessing)
    return References(trained, trained if storage == "fp32" else _served(served))


def _trained(network: ResNet, preprocessing: Preprocessing) -> Reference:
    """Compute as the network was trained: nothing folded, scaled to 0..1, then mean and std."""
    mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    network = network.eval()

    def outputs(images: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            features = network.features((x - mean) / std)
            embedding = pool(features)
            probabilities = torch.softmax(network.fc(embedding), dim=1)
        return _named(network, probabilities, embedding, features)

    return outputs


def _served(served: ServedNetwork) -> Reference:
    """Compute with the very weights that the file holds, in PyTorch."""

    def outputs(images: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            return _named(served.network, *served(torch.from_numpy(images)))

    return outputs


def _named(
    network: ResNet, probabilities: torch.Tensor, embedding: torch.Tensor, features: torch.Tensor
) -> Outputs:
    return {
        PROBABILITIES: probabilities.numpy(),
        "embedding": embedding.numpy(),
        "features": features.numpy(),
        "classifier_weight": network.fc.weight.detach().numpy(),
    }

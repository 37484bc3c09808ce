"""PyTorch's answers, with which a model file is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.architectures.classifier import FeatureClassifier, pool
from model_export.errors import GraphError
from model_export.graph import ServedNetwork
from model_export.options import Storage
from service.contract import PROBABILITIES, Preprocessing
from service.errors import first_line

Outputs = Mapping[str, NDArray[np.float32]]
"""A model file's outputs by name; see `service.contract`."""

Reference = Callable[[NDArray[np.uint8]], Outputs]
"""Maps images uint8 [N, H, W, 3] to the outputs expected for them."""


@dataclass(frozen=True, slots=True)
class References:
    """What a file is compared with.

    `trained` is the network as it was trained. `exact` computes with exactly the file's weights, so
    the file may only differ from it by float32 rounding; for weights stored as float32, both are
    the same.
    """

    trained: Reference
    exact: Reference


def references(
    network: nn.Module, served: ServedNetwork, preprocessing: Preprocessing, storage: Storage
) -> References:
    """Return the references for a trained network and its exported form (see `prepare`)."""
    trained = _trained(network, preprocessing)
    return References(trained, trained if storage == "fp32" else _served(served))


def _trained(network: nn.Module, preprocessing: Preprocessing) -> Reference:
    """Return a reference that computes as in training: unfolded, scaled to 0..1, mean and std."""
    mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    network = network.eval()

    def outputs(images: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            return _outputs(network, (x - mean) / std)

    return outputs


def _served(served: ServedNetwork) -> Reference:
    """Return a reference that computes in PyTorch with exactly the file's weights."""

    def outputs(images: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            return _named(served.network, served(torch.from_numpy(images)))

    return outputs


def count_classes(network: nn.Module, size: tuple[int, int]) -> int:
    """Return the number of classes, 2 or more, of a network for images of that height and width.

    Raises `GraphError` if a network does not return logits [N, C], or only one per image.
    """
    classes = (
        network.linear.out_features
        if isinstance(network, FeatureClassifier)
        else _logits_of(network, size)
    )
    if classes < 2:
        raise GraphError(
            "the network returns one logit, but a model file needs one for each of two or more "
            "classes: for yes and no, add one that is always 0 (softmax is then the sigmoid)"
        )
    return classes


def _logits_of(network: nn.Module, size: tuple[int, int]) -> int:
    for images in (1, 2):
        try:
            with torch.inference_mode():
                logits = network.eval()(torch.zeros(images, 3, *size))
        except Exception as error:  # whatever a foreign network raises
            raise GraphError(
                f"the network does not take float32 [N, 3, {size[0]}, {size[1]}]: "
                f"{first_line(error)}"
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != images:
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise GraphError(
                f"the network must return logits [N, C] for N images; it gave {what} for {images}"
            )
    return int(logits.shape[1])


def _outputs(network: nn.Module, x: Tensor) -> Outputs:
    if not isinstance(network, FeatureClassifier):
        return _named(network, (torch.softmax(network(x), dim=1),))
    features = network.feature_map(x)
    embedding = pool(features)
    return _named(network, (torch.softmax(network.linear(embedding), dim=1), embedding, features))


def _named(network: nn.Module, values: tuple[Tensor, ...]) -> Outputs:
    outputs = {PROBABILITIES: values[0].numpy()}
    if isinstance(network, FeatureClassifier):
        outputs |= {
            "embedding": values[1].numpy(),
            "features": values[2].numpy(),
            "classifier_weight": network.linear.weight.detach().numpy(),
        }
    return outputs

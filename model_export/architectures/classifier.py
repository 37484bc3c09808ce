"""What the networks here have in common.

Most have a last feature map, its average and one linear layer.
"""

from __future__ import annotations

from torch import Tensor, nn


class FoldableClassifier(nn.Module):
    """A network that declares its modules in the order of computation.

    So each normalisation can be folded into the convolution declared just before it, and the
    division of pixels into the first convolution. `side` is the only one that its images may have,
    if there is only one.
    """

    side: int | None = None

    @property
    def first_convolution(self) -> nn.Conv2d:
        """Return the only convolution that takes the image."""
        raise NotImplementedError


class FeatureClassifier(FoldableClassifier):
    """A convolutional network whose only linear layer takes the average of its last feature map.

    Class activation maps can be computed from the feature map, and the average is the embedding.
    """

    @property
    def linear(self) -> nn.Linear:
        """Return the classifier."""
        raise NotImplementedError

    def feature_map(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to the last feature map [N, D, h, w]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to logits [N, classes]."""
        return self.linear(pool(self.feature_map(x)))  # type: ignore[no-any-return]


def fixed_side(network: nn.Module) -> int | None:
    """Return the only side of images that a network takes; None if there is none or unknown."""
    return network.side if isinstance(network, FoldableClassifier) else None


def pool(features: Tensor) -> Tensor:
    """Average a feature map [N, D, h, w] over its positions to an embedding [N, D]."""
    return features.mean(dim=(2, 3))

"""AlexNet with torchvision's parameter names.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
https://arxiv.org/abs/1404.5997.
"""

from __future__ import annotations

from torch import Tensor, nn

from model_export.architectures.classifier import FoldableClassifier

_SIDE = 6  # of the last feature map, as the first linear layer expects it
_MULTIPLES = (1, 3, 6, 4, 4)  # channels of the five convolutions, relative to the first


class AlexNet(FoldableClassifier):
    """Five convolutions and three linear layers; the first convolution has `width` channels."""

    def __init__(self, *, classes: int, width: int = 64) -> None:
        super().__init__()
        first, second, third, fourth, fifth = (width * multiple for multiple in _MULTIPLES)
        hidden = width * 64
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fourth, fifth, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(_SIDE)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(fifth * _SIDE * _SIDE, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    @property
    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that takes the image."""
        first = self.features[0]
        assert isinstance(first, nn.Conv2d)  # noqa: S101 - as it is made above
        return first

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to logits [N, classes]."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]

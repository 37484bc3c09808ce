"""A really trained ResNet-18: on scikit-learn's handwritten digits, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from networks import normalised
from numpy.typing import NDArray
from shared import made_once
from sklearn.datasets import load_digits

from model_export.architectures.build import build

ARCHITECTURE, SIDE = "resnet18", 16
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_WIDTH, _EPOCHS, _BATCH = 16, 5, 64


@dataclass(frozen=True)
class TrainedDigits:
    """The network, and held-out images [N, 16, 16, 3] with their labels."""

    network: torch.nn.Module
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def predictions(self) -> NDArray[np.int64]:
        """Return PyTorch's labels for the held-out images."""
        with torch.inference_mode():
            best: NDArray[np.int64] = self.network(normalised(self.images)).argmax(dim=1).numpy()
            return best


def trained_digits(folder: Path) -> TrainedDigits:
    """Train once per test run, whose processes share the folder; every fifth image is held out."""
    digits = load_digits()
    grey = np.round(digits.images * 255 / 16).astype(np.uint8)
    images = np.repeat(np.kron(grey, np.ones((1, 2, 2), np.uint8))[..., None], 3, axis=-1)
    held_out = np.arange(len(images)) % 5 == 0
    inputs, labels = images[~held_out], digits.target[~held_out]
    state = made_once(
        folder / "digits.pth", lambda part: torch.save(_trained(inputs, labels), part)
    )
    network = _network().eval()
    network.load_state_dict(torch.load(state, weights_only=True))
    return TrainedDigits(network, images[held_out], digits.target[held_out])


def _network() -> torch.nn.Module:
    return build(ARCHITECTURE, classes=len(CLASSES), width=_WIDTH, stem="small")


def _trained(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other take far longer on a busy machine
    try:
        return _train(images, labels).state_dict()
    finally:
        torch.set_num_threads(threads)


def _train(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> torch.nn.Module:
    torch.manual_seed(0)
    network = _network().train()
    inputs, targets = normalised(images), torch.from_numpy(labels)
    # With decay and smoothing it ends at 97 % and more; without, it varies from CPU to CPU.
    optimiser = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=2e-3
    )
    steps = _EPOCHS * (len(inputs) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(inputs))
        for start in range(0, len(inputs) - _BATCH + 1, _BATCH):
            chosen = order[start : start + _BATCH]
            loss = torch.nn.functional.cross_entropy(
                network(inputs[chosen]), targets[chosen], label_smoothing=0.1
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimiser.step()
            schedule.step()
    return network

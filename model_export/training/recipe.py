"""How to train: everything that determines a run's result, except the images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model_export.training.options import Amp, OptimiserName

_NOISE, _NOISE_DECAY = 0.01, 0.55  # eta and gamma of the paper


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters; `sizes` are pairs (side, epochs), since starting small saves time."""

    epochs: int
    batch: int
    optimiser: OptimiserName
    learning_rate: float
    weight_decay: float
    warmup_epochs: float
    label_smoothing: float
    ema_decay: float
    sizes: tuple[tuple[int, int], ...]
    seed: int
    amp: Amp

    def side_at(self, epoch: int) -> int:
        """Return the side of the training images in an epoch, counted from 0."""
        for side, epochs in self.sizes:
            if epoch < epochs:
                return side
            epoch -= epochs
        raise IndexError(f"epoch {epoch} after the last")

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate: linear from 0 in the warm-up, then half a cosine to 0.

        Loshchilov, Hutter, "SGDR", https://arxiv.org/abs/1608.03983.
        """
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * min(1, (step + 1) / warmup)
        total = self.epochs * steps_per_epoch
        done = (step - warmup) / max(total - warmup, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1)))


def as_plain(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as stored in a checkpoint."""
    return asdict(recipe) | {"sizes": [list(size) for size in recipe.sizes]}


def optimiser_for(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser; weights decay, but biases and normalisations don't."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)


def add_noise(network: nn.Module, step: int, seed: int) -> None:
    """Add decreasing Gaussian noise to the gradients.

    Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks",
    https://arxiv.org/abs/1511.06807: the variance is eta / (1 + t)^gamma.
    """
    deviation = math.sqrt(_NOISE / (1 + step) ** _NOISE_DECAY)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    for parameter in network.parameters():
        if parameter.grad is not None:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad.add_(noise.to(parameter.grad), alpha=deviation)


def averaged(decay: float) -> Any:
    """Return the function with which `AveragedModel` averages the trained parameters.

    Early on it follows them closely, so that the start does not dominate a short run's average.
    """

    def follow(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        kept = min(decay, (1 + n) / (10 + n))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - kept)
            else:  # step counters
                average.copy_(value)

    return follow

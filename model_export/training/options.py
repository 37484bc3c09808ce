"""The options of `resnet-export train`, as read by the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model_export.architectures import Stem
from model_export.errors import OptionsError
from model_export.files import resolved
from model_export.options import PreprocessingOptions, WeightsOptions

OptimiserName = Literal["sgd", "adamw", "sgd-noise"]
Amp = Literal["off", "bf16", "fp16"]
AmpName = Literal["auto", "off", "bf16", "fp16"]

_HELD_OUT = 0.2  # of each class


@dataclass(frozen=True, slots=True)
class RecipeOptions:
    """How to train; None is the default for the optimiser, batch, device or input size."""

    epochs: int
    batch: int
    optimiser: OptimiserName
    learning_rate: float | None
    warmup_epochs: float | None
    weight_decay: float
    label_smoothing: float
    ema_decay: float
    amp: AmpName
    sizes: tuple[tuple[int, int], ...] | None
    seed: int

    def __post_init__(self) -> None:
        sized = self.epochs if self.sizes is None else sum(epochs for _, epochs in self.sizes)
        if sized != self.epochs:
            raise OptionsError(f"--sizes cover {sized} epochs, but --epochs is {self.epochs}")
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise OptionsError(
                f"--warmup-epochs {self.warmup_epochs:g}: must be less than --epochs, {self.epochs}"
            )


@dataclass(frozen=True, slots=True)
class AugmentationOptions:
    """How training images are augmented."""

    min_area: float
    flip: bool
    jitter: float


@dataclass(frozen=True, slots=True)
class HeldOutOptions:
    """Which images to evaluate on: a separate folder, or a fraction of each class."""

    folder: Path | None
    given_fraction: float | None
    patience: int | None

    def __post_init__(self) -> None:
        if self.folder is not None and self.given_fraction is not None:
            raise OptionsError("--validation-fraction can't be combined with --validation")

    @property
    def fraction(self) -> float:
        """Return the fraction of each class to hold out if there is no validation folder."""
        return self.given_fraction or _HELD_OUT


DeviceName = Literal["auto", "cpu", "cuda"]
"""PyTorch's devices."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """All options of `train`."""

    folder: Path
    output: Path
    resume: bool
    architecture: str
    weights: WeightsOptions
    width: int | None
    stem: Stem | None
    device: DeviceName
    workers: int
    held_out: HeldOutOptions
    recipe: RecipeOptions
    augmentation: AugmentationOptions
    preprocessing: PreprocessingOptions

    def __post_init__(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise OptionsError(f"--output {self.output}: is a file, not a folder")
        held_out = self.held_out.folder
        for folder in filter(None, (self.folder, held_out)):
            if resolved(self.output).is_relative_to(resolved(folder)):
                raise OptionsError(
                    f"--output {self.output}: is inside the folder of images {folder}, like a class"
                )
        if held_out is not None and resolved(held_out) == resolved(self.folder):
            raise OptionsError(f"--validation {held_out}: is the folder that is trained on")
        self.weights.check_file()

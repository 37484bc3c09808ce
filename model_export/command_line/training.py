"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model_export.command_line import arguments as given
from model_export.command_line import training_arguments as recipe
from model_export.command_line.jobs import Job, job
from model_export.options import PreprocessingOptions, WeightsOptions
from model_export.training.options import (
    AugmentationOptions,
    HeldOutOptions,
    RecipeOptions,
    TrainOptions,
)


def train(  # noqa: PLR0913 - each is an option
    *,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Images, in one subfolder per class, named after the class."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder for the run's last.pth, best.pth, metrics.csv and metrics.html.",
        ),
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in that folder.")
    ] = False,
    architecture: recipe.KnownArchitecture = "resnet18",
    width: recipe.Width = None,
    stem: given.Stem = None,
    weights: given.Weights = None,
    weights_entry: given.WeightsEntry = None,
    cache_dir: given.CacheDir = None,
    validation: recipe.ValidationFolder = None,
    validation_fraction: recipe.ValidationFraction = None,
    patience: recipe.Patience = None,
    epochs: recipe.Epochs = 20,
    batch: recipe.Batch = 64,
    optimiser: recipe.Optimiser = "sgd",
    learning_rate: recipe.LearningRate = None,
    warmup_epochs: recipe.WarmupEpochs = None,
    weight_decay: recipe.WeightDecay = 5e-5,
    label_smoothing: recipe.LabelSmoothing = 0.1,
    ema_decay: recipe.EmaDecay = 0.999,
    amp: recipe.AmpMode = "auto",
    sizes: recipe.Sizes = None,
    seed: recipe.Seed = 0,
    device: recipe.Device = "auto",
    workers: recipe.Workers = 0,
    min_area: recipe.MinArea = 0.35,
    jitter: recipe.Jitter = 0.2,
    flip: recipe.Flip = True,
    input_size: given.SquareInput = None,
    resize: given.ShortSide = None,
    interpolation: given.Interpolation = None,
    mean: given.Mean = None,
    std: given.Std = None,
) -> Job:
    """Train on a folder with one subfolder of images per class.

    Train from scratch, or fine-tune the weights given by --weights. To continue an interrupted run,
    repeat the command with --resume.
    """
    options = TrainOptions(
        folder, output, resume, architecture,
        WeightsOptions(weights, weights_entry, cache_dir),
        width, stem, device, workers,
        HeldOutOptions(validation, validation_fraction, patience),
        RecipeOptions(
            epochs, batch, optimiser, learning_rate, warmup_epochs, weight_decay, label_smoothing,
            ema_decay, amp, sizes, seed,
        ),
        AugmentationOptions(min_area, flip, jitter),
        PreprocessingOptions(input_size, resize, interpolation, mean, std),
    )  # fmt: skip
    return job("model_export.training.command", "train_command", options)

"""The arguments of `resnet-export train` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from model_export.architectures import ARCHITECTURES, BASE_WIDTH
from model_export.command_line import values
from model_export.command_line.arguments import NETWORK, choice, known, names, option
from model_export.training.options import AmpName, DeviceName, OptimiserName


def _usual_widths() -> str:
    widths = {name: spec.width for name, spec in ARCHITECTURES.items()}
    others = [f"{width} for {name}" for name, width in widths.items() if width != BASE_WIDTH]
    return ", ".join([str(BASE_WIDTH), *others])


_HELD_OUT, _RECIPE, _AUGMENTATION = "Held-out images", "Recipe", "Augmentation"

KnownArchitecture = Annotated[str, option(NETWORK, "--architecture", help=names, **known)]
Width = Annotated[
    int | None,
    option(NETWORK, "--width", metavar="N", parser=values.positive,
            show_default=_usual_widths(),
            help="Channels of the stem; all other layers scale with it."),
]  # fmt: skip
ValidationFolder = Annotated[
    Path | None,
    option(_HELD_OUT, "--validation", metavar="DIR",
            help="Separate folder of held-out images, with the same classes."),
]  # fmt: skip
ValidationFraction = Annotated[
    float | None,
    option(_HELD_OUT, "--validation-fraction", metavar="FRACTION", parser=values.share,
            show_default="0.2", help="Fraction of each class to hold out without --validation."),
]  # fmt: skip
Patience = Annotated[
    int | None,
    option(_HELD_OUT, "--patience", metavar="EPOCHS", parser=values.positive, show_default="off",
            help="Stop after this many epochs without a better top-1."),
]  # fmt: skip
Workers = Annotated[
    int,
    option(_RECIPE, "--workers", metavar="N", parser=values.workers,
            help="Worker processes for decoding; 0 decodes in the main process."),
]  # fmt: skip
Epochs = Annotated[
    int,
    option(_RECIPE, "--epochs", metavar="N", parser=values.positive,
            help="Passes over the training images."),
]  # fmt: skip
Batch = Annotated[
    int,
    option(_RECIPE, "--batch", metavar="N", parser=values.positive, help="Images per step."),
]
Optimiser = Annotated[
    OptimiserName,
    choice(_RECIPE, "--optimiser", OptimiserName,
            help="sgd uses Nesterov momentum; sgd-noise adds annealed Gaussian noise to its "
            "gradients."),
]  # fmt: skip
LearningRate = Annotated[
    float | None,
    option(_RECIPE, "--learning-rate", metavar="RATE", parser=values.above_zero,
            show_default="by optimiser and batch size, lower with --weights",
            help="Peak learning rate."),
]  # fmt: skip
WarmupEpochs = Annotated[
    float | None,
    option(_RECIPE, "--warmup-epochs", metavar="EPOCHS", parser=values.not_below_zero,
            show_default="1, or half of a single epoch",
            help="Epochs of warm-up before the cosine decay to 0."),
]  # fmt: skip
WeightDecay = Annotated[
    float,
    option(_RECIPE, "--weight-decay", metavar="RATE", parser=values.not_below_zero,
            help="Weight decay."),
]  # fmt: skip
LabelSmoothing = Annotated[
    float,
    option(_RECIPE, "--label-smoothing", metavar="FRACTION", parser=values.share_or_none,
            help="Share of the target spread evenly over all classes."),
]  # fmt: skip
EmaDecay = Annotated[
    float,
    option(_RECIPE, "--ema-decay", metavar="FRACTION", parser=values.share_or_none,
            help="Decay of the moving average of the parameters."),
]  # fmt: skip
AmpMode = Annotated[
    AmpName,
    choice(_RECIPE, "--amp", AmpName,
            help="Mixed precision; auto is bf16 or fp16 on a GPU, off on a CPU."),
]  # fmt: skip
Sizes = Annotated[
    Any,
    option(_RECIPE, "--sizes", metavar="PIXELS:EPOCHS,...", parser=values.sizes,
            show_default="the input size",
            help="Schedule of training image sizes, covering all epochs."),
]  # fmt: skip
Seed = Annotated[
    int, option(_RECIPE, "--seed", metavar="N", parser=values.seed, help="Random seed.")
]
MinArea = Annotated[
    float,
    option(_AUGMENTATION, "--min-area", metavar="FRACTION", parser=values.share,
            help="Minimum fraction of an image's area kept by a random crop."),
]  # fmt: skip
Jitter = Annotated[
    float,
    option(_AUGMENTATION, "--jitter", metavar="FRACTION", parser=values.share_or_none,
            help="Maximum relative change of brightness and contrast."),
]  # fmt: skip
Flip = Annotated[
    bool, option(_AUGMENTATION, "--flip/--no-flip", help="Mirror half of the images, at random.")
]
Device = Annotated[DeviceName, choice(_RECIPE, "--device", DeviceName, help="Where to train.")]

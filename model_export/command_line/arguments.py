"""The arguments of `resnet-export`'s commands: how each is written, read and explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from model_export.architectures import ARCHITECTURES
from model_export.architectures import Stem as StemName
from model_export.command_line import values
from model_export.options import Interpolation as InterpolationName
from model_export.options import Precision as PrecisionName
from model_export.options import Storage as StorageName
from model_export.options import Triple
from service.engine.providers import provider_names

NETWORK, _WEIGHTS = "Network", "Weights"
_CONTRACT, _PREPROCESSING = "Model file", "Preprocessing"
_PRECISION = "Precision"


def option(panel: str | None, *flags: str, **more: Any) -> Any:
    """Make an option that help shows in that group."""
    return typer.Option(*flags, rich_help_panel=panel, **more)


def choice(panel: str | None, flag: str, allowed: Any, **more: Any) -> Any:
    """Make an option of one of these values, or those of a `Literal`, which its help shows."""
    values_of = get_args(allowed) or allowed
    return option(panel, flag, parser=values.one_of(values_of), metavar="|".join(values_of), **more)


known = {"parser": values.one_of(ARCHITECTURES), "metavar": "ARCHITECTURE"}
names = f"One of {', '.join(ARCHITECTURES)}."

Architecture = Annotated[
    str | None,
    typer.Argument(help=f"{names} `resnet-export list` tells more of them.", **known),
]
Module = Annotated[
    str | None,
    option(NETWORK, "--module", metavar="PACKAGE.MODULE:FACTORY",
            help="In place of an architecture: a function that gives any torch.nn.Module from "
            "normalised RGB [N, 3, H, W] to logits [N, C]. It runs your code."),
]  # fmt: skip
Stem = Annotated[
    StemName | None,
    choice(NETWORK, "--stem", StemName, show_default="by the architecture, and by the weights",
            help="7x7 convolution and max pooling, three of 3x3 and max pooling, or one of 3x3 "
            "with stride 2, for images of 32 to 64 pixels."),
]  # fmt: skip
Weights = Annotated[
    str | None,
    option(_WEIGHTS, "--weights", metavar="SOURCE", parser=values.words,
            help="A file: safetensors, or what torch.save wrote, by its content. Or "
            "`imagenet`: torchvision's official weights."),
]  # fmt: skip
WeightsEntry = Annotated[
    str | None,
    option(_WEIGHTS, "--weights-entry", metavar="KEY",
            show_default="averaged ones, then `state_dict`, `model` and the like",
            help="Entry of the file that has the parameters, or what their names begin with."),
]  # fmt: skip
CacheDir = Annotated[
    Path | None,
    option(_WEIGHTS, "--cache-dir", metavar="DIR", show_default="~/.cache/resnet-serve",
            help="Folder of downloads."),
]  # fmt: skip
Output = Annotated[
    Path,
    option(_CONTRACT, "--output", metavar="FILE",
            help="NAME.onnx or NAME/VERSION.onnx. One that is there is replaced."),
]  # fmt: skip
UpgradedOutput = Annotated[
    Path | None,
    option(None, "--output", metavar="FILE", show_default="the file itself",
            help="NAME.onnx or NAME/VERSION.onnx. One that is there is replaced."),
]  # fmt: skip
Labels = Annotated[
    Path | None,
    option(_CONTRACT, "--labels", metavar="FILE", show_default="for 1000 classes: ImageNet-1k's",
            help="Classes in output order: a JSON list, of strings or of objects with id and "
            "label, or text with one a line."),
]  # fmt: skip
Name = Annotated[
    str | None,
    option(_CONTRACT, "--name", metavar="NAME", parser=values.words,
            show_default="after the output file", help="Name in the contract."),
]  # fmt: skip
SourceNote = Annotated[
    str | None,
    option(_CONTRACT, "--source-note", metavar="TEXT", parser=values.words,
            show_default="the file's name", help="Where the weights came from."),
]  # fmt: skip
MaxBatch = Annotated[
    int,
    option(_CONTRACT, "--max-batch", metavar="N", parser=values.positive,
            help="Largest batch size to verify at."),
]  # fmt: skip
InputSize = Annotated[
    int | None,
    option(_PREPROCESSING, "--input-size", metavar="PIXELS", parser=values.side,
            show_default="the weights' own, or 224",
            help="Side of the centre crop that the network takes."),
]  # fmt: skip
Resize = Annotated[
    int | None,
    option(_PREPROCESSING, "--resize", metavar="PIXELS", parser=values.side,
            show_default="in the weights' own proportion to the input size, or 256 to 224",
            help="Length of the short side before the crop."),
]  # fmt: skip
Interpolation = Annotated[
    InterpolationName | None,
    choice(_PREPROCESSING, "--interpolation", InterpolationName,
            show_default="the weights' own, or bilinear", help="How images are resized."),
]  # fmt: skip
Mean = Annotated[
    Triple | None,
    option(_PREPROCESSING, "--mean", metavar="R G B", parser=values.number,
            show_default="the weights' own, or ImageNet's", help="Subtracted; pixels are 0 to 1."),
]  # fmt: skip
Std = Annotated[
    Triple | None,
    option(_PREPROCESSING, "--std", metavar="R G B", parser=values.above_zero,
            show_default="the weights' own, or ImageNet's", help="What they are then divided by."),
]  # fmt: skip

Storage = Annotated[
    StorageName | None,
    choice(_PRECISION, "--storage", StorageName, show_default="fp32",
            help="fp16 halves the file, computation stays in float32."),
]  # fmt: skip
Precision = Annotated[
    PrecisionName,
    choice(_PRECISION, "--precision", PrecisionName, help="fp16 for GPUs, int8 for CPUs."),
]
LoweringImages = Annotated[
    Path | None,
    option(_PRECISION, "--images", metavar="SOURCE", show_default="generated ones",
            help="Folder or tar of images: every other one calibrates int8, the others measure the "
            "agreement with float32."),
]  # fmt: skip
CalibrationImages = Annotated[
    int | None,
    option(_PRECISION, "--calibration-images", metavar="N", parser=values.positive,
            show_default="256", help="Most images to calibrate int8 with."),
]  # fmt: skip
MinAgreement = Annotated[
    float | None,
    option(_PRECISION, "--min-agreement", metavar="FRACTION", parser=values.fraction,
            show_default="0.95",
            help="Least share of images that keep float32's label; a file below it is refused."),
]  # fmt: skip
ReduceRange = Annotated[
    bool | None,
    option(_PRECISION, "--reduce-range/--no-reduce-range", show_default="as this CPU needs",
            help="Weights of 7 bits, which CPUs without VNNI need."),
]  # fmt: skip
PerChannel = Annotated[
    bool | None,
    option(_PRECISION, "--per-channel/--no-per-channel", show_default="for each",
            help="A scale for each output channel of a weight, or one for all."),
]  # fmt: skip

ModelFile = Annotated[Path, typer.Argument(metavar="FILE", help="Model file.")]
SecondFile = Annotated[
    Path, typer.Argument(metavar="SECOND", help="Model file of the same labels.")
]
Images = Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder or tar.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Limit = Annotated[
    int | None,
    option(None, "--limit", metavar="N", parser=values.positive, show_default="all",
            help="Only the first N images."),
]  # fmt: skip

ForeignFile = Annotated[Path, typer.Argument(metavar="FILE", help="The ONNX file.")]
AdoptedAs = Annotated[
    str,
    option(_CONTRACT, "--architecture", metavar="TEXT", parser=values.words,
            help="What the contract calls the network."),
]  # fmt: skip
OutputName = Annotated[
    str | None,
    option(NETWORK, "--output-name", metavar="NAME", show_default="the only one",
            help="The output with the answers."),
]  # fmt: skip
GivesName = Literal["logits", "probabilities"]
Gives = Annotated[
    GivesName | None,
    choice(NETWORK, "--gives", GivesName, show_default="by trying; a sigmoid is asked about",
            help="What that output is: logits get a softmax."),
]  # fmt: skip
ChannelsName = Literal["rgb", "bgr"]
Channels = Annotated[
    ChannelsName,
    choice(NETWORK, "--channels", ChannelsName,
            help="Order in which it takes them. Mean and std are given as RGB either way."),
]  # fmt: skip
Provider = Annotated[str, choice(None, "--provider", provider_names(), help="Where it runs.")]

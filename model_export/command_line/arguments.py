"""The arguments of `resnet-export`'s commands: how each is written, read and explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from model_export.architectures import ARCHITECTURES
from model_export.architectures import Stem as StemName
from model_export.command_line import values
from model_export.options import Precision as PrecisionName
from model_export.options import ServedPrecision as ServedPrecisionName
from model_export.options import Storage as StorageName
from model_export.options import Triple
from service.contract import Faster
from service.contract import Fit as FitName
from service.contract import Interpolation as InterpolationName
from service.contract import Offset as OffsetName
from service.contract import Position as PositionName
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
    typer.Argument(help=f"{names} `resnet-export list` shows details.", **known),
]
Module = Annotated[
    str | None,
    option(NETWORK, "--module", metavar="PACKAGE.MODULE:FACTORY",
            help="Instead of an architecture: a function that returns a torch.nn.Module mapping "
            "normalised RGB [N, 3, H, W] to logits [N, C]. This runs your code."),
]  # fmt: skip
Stem = Annotated[
    StemName | None,
    choice(NETWORK, "--stem", StemName, show_default="from the architecture and the weights",
            help="A 7x7 convolution and max pooling; three 3x3 convolutions and max pooling; or "
            "one 3x3 convolution with stride 2, for images of 32 to 64 pixels."),
]  # fmt: skip
Weights = Annotated[
    str | None,
    option(_WEIGHTS, "--weights", metavar="SOURCE", parser=values.words,
            help="A safetensors or torch.save file, recognised by its content, or `imagenet` for "
            "torchvision's official weights."),
]  # fmt: skip
WeightsEntry = Annotated[
    str | None,
    option(_WEIGHTS, "--weights-entry", metavar="KEY",
            show_default="averaged weights, then `state_dict`, `model` and the like",
            help="Entry of the file that holds the parameters, or the prefix of their names."),
]  # fmt: skip
CacheDir = Annotated[
    Path | None,
    option(_WEIGHTS, "--cache-dir", metavar="DIR", show_default="~/.cache/resnet-serve",
            help="Folder for downloads."),
]  # fmt: skip
Output = Annotated[
    Path,
    option(_CONTRACT, "--output", metavar="FILE",
            help="NAME.onnx or NAME/VERSION.onnx. An existing file is replaced."),
]  # fmt: skip
UpgradedOutput = Annotated[
    Path | None,
    option(None, "--output", metavar="FILE", show_default="the file itself",
            help="NAME.onnx or NAME/VERSION.onnx. An existing file is replaced."),
]  # fmt: skip
Labels = Annotated[
    Path | None,
    option(_CONTRACT, "--labels", metavar="FILE", show_default="ImageNet-1k's, for 1000 classes",
            help="Classes in output order: a JSON list of strings or of objects with id and "
            "label, or a text file with one class per line."),
]  # fmt: skip
Name = Annotated[
    str | None,
    option(_CONTRACT, "--name", metavar="NAME", parser=values.words,
            show_default="from the output file", help="Model name in the contract."),
]  # fmt: skip
SourceNote = Annotated[
    str | None,
    option(_CONTRACT, "--source-note", metavar="TEXT", parser=values.words,
            show_default="the file name", help="Where the weights came from."),
]  # fmt: skip
MaxBatch = Annotated[
    int,
    option(_CONTRACT, "--max-batch", metavar="N", parser=values.positive,
            help="Largest batch size to verify at."),
]  # fmt: skip
InputSize = Annotated[
    Any,  # `SizeOption | None`, a union that Typer has no words for
    option(_PREPROCESSING, "--input-size", metavar="PIXELS", parser=values.size,
            show_default="from the weights, or 224",
            help="Side of the centre crop fed to the network, or HEIGHTxWIDTH."),
]  # fmt: skip
Resize = Annotated[
    Any,  # as above
    option(_PREPROCESSING, "--resize", metavar="PIXELS", parser=values.size,
            show_default="in the weights' ratio to the input size, or 256:224; the input size with "
            "squash and contain",
            help="What --fit resizes to: the length of the short side, or HEIGHTxWIDTH."),
]  # fmt: skip
SquareInput = Annotated[
    int | None,
    option(_PREPROCESSING, "--input-size", metavar="PIXELS", parser=values.side,
            show_default="from the weights, or 224",
            help="Side of the centre crop fed to the network."),
]  # fmt: skip
ShortSide = Annotated[
    int | None,
    option(_PREPROCESSING, "--resize", metavar="PIXELS", parser=values.side,
            show_default="in the weights' ratio to the input size, or 256:224",
            help="Length of the short side before cropping."),
]  # fmt: skip
Fit = Annotated[
    FitName | None,
    choice(_PREPROCESSING, "--fit", FitName,
            show_default="short_side, or cover if the input is not a square",
            help="How an image is resized before cropping: its short side to --resize; to the "
            "smallest that covers it; to the largest that fits into it, surrounded by --fill; or "
            "to exactly it, changing the aspect ratio."),
]  # fmt: skip
CropPct = Annotated[
    float | None,
    option(_PREPROCESSING, "--crop-pct", metavar="FRACTION", parser=values.crop_fraction,
            show_default="as --resize says",
            help="In place of --resize: the fraction of it that the input size is (timm)."),
]  # fmt: skip
Fill = Annotated[
    tuple[int, int, int] | None,
    option(_PREPROCESSING, "--fill", metavar="R G B", parser=values.byte, show_default="0 0 0",
            help="Colour around an image with --fit contain, 0 to 255."),
]  # fmt: skip
Position = Annotated[
    PositionName | None,
    choice(_PREPROCESSING, "--position", PositionName, show_default="center",
            help="Where an image lies with --fit contain."),
]  # fmt: skip
Offset = Annotated[
    OffsetName | None,
    choice(_PREPROCESSING, "--offset", OffsetName, show_default="even",
            help="How half a pixel of the crop's offset is rounded: to the even number "
            "(torchvision, timm) or down (Hugging Face)."),
]  # fmt: skip
PreprocessorFile = Annotated[
    Path | None,
    option(_PREPROCESSING, "--preprocessor", metavar="FILE",
            help="Instead of these options: Hugging Face's preprocessor_config.json, or timm's "
            "config.json."),
]  # fmt: skip
Rescale = Annotated[
    float | None,
    option(_PREPROCESSING, "--rescale", metavar="FACTOR", parser=values.above_zero,
            show_default="1/255",
            help="What pixel values from 0 to 255 are multiplied by before --mean and --std, which "
            "it needs; 1 for networks that take them as they are."),
]  # fmt: skip
Interpolation = Annotated[
    InterpolationName | None,
    choice(_PREPROCESSING, "--interpolation", InterpolationName,
            show_default="from the weights, or bilinear", help="Resampling filter."),
]  # fmt: skip
Mean = Annotated[
    Triple | None,
    option(_PREPROCESSING, "--mean", metavar="R G B", parser=values.number,
            show_default="from the weights, or ImageNet's",
            help="Channel means to subtract, for pixel values from 0 to 1."),
]  # fmt: skip
Std = Annotated[
    Triple | None,
    option(_PREPROCESSING, "--std", metavar="R G B", parser=values.above_zero,
            show_default="from the weights, or ImageNet's",
            help="Channel standard deviations to divide by."),
]  # fmt: skip

Storage = Annotated[
    StorageName | None,
    choice(_PRECISION, "--storage", StorageName, show_default="fp32",
            help="fp16 halves the file size; computation stays in float32."),
]  # fmt: skip
Precision = Annotated[
    PrecisionName,
    choice(_PRECISION, "--precision", PrecisionName, help="fp16 for GPUs, int8 for CPUs."),
]
LoweringImages = Annotated[
    Path | None,
    option(_PRECISION, "--images", metavar="SOURCE", show_default="generated images",
            help="Folder or tar of images: every other image calibrates int8, the rest measure "
            "agreement with float32."),
]  # fmt: skip
CalibrationImages = Annotated[
    int | None,
    option(_PRECISION, "--calibration-images", metavar="N", parser=values.positive,
            show_default="256", help="Maximum images for int8 calibration."),
]  # fmt: skip
MinAgreement = Annotated[
    float | None,
    option(_PRECISION, "--min-agreement", metavar="FRACTION", parser=values.fraction,
            show_default="0.95",
            help="Minimum fraction of images with the same label as float32; below it, the export "
            "fails."),
]  # fmt: skip
ReduceRange = Annotated[
    bool | None,
    option(_PRECISION, "--reduce-range/--no-reduce-range", show_default="if this CPU needs it",
            help="Use 7-bit weights, as CPUs without VNNI need."),
]  # fmt: skip
PerChannel = Annotated[
    bool | None,
    option(_PRECISION, "--per-channel/--no-per-channel", show_default="per channel",
            help="Scale each output channel of a weight separately, or the whole weight at once."),
]  # fmt: skip

ModelFile = Annotated[Path, typer.Argument(metavar="FILE", help="Model file.")]
SecondFile = Annotated[
    Path, typer.Argument(metavar="SECOND", help="Model file with the same labels.")
]
DataSet = Annotated[
    str | None,
    option(None, "--data-set", metavar="NAME", parser=values.words, show_default="from IMAGES",
            help="Name of the data set in the report."),
]  # fmt: skip
FasterPrecision = Annotated[
    Faster,
    choice(None, "--precision", Faster,
            help="bf16: CPUs that support it, through OpenVINO; fp16: the newest of them; tf32: "
            "GPUs."),
]  # fmt: skip
OwnImages = Annotated[
    Path, typer.Option("--images", metavar="DIR", help="Folder or tar of real images.")
]
Images = Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder or tar of images.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[
    int | None,
    option(None, "--limit", metavar="N", parser=values.positive, show_default="all",
            help="Use only N images, evenly spaced."),
]  # fmt: skip

ForeignFile = Annotated[Path, typer.Argument(metavar="FILE", help="ONNX file.")]
AdoptedAs = Annotated[
    str,
    option(_CONTRACT, "--architecture", metavar="TEXT", parser=values.words,
            help="Architecture name in the contract."),
]  # fmt: skip
OutputName = Annotated[
    str | None,
    option(NETWORK, "--output-name", metavar="NAME", show_default="the only output",
            help="Output with the predictions."),
]  # fmt: skip
GivesName = Literal["logits", "probabilities"]
Gives = Annotated[
    GivesName | None,
    choice(NETWORK, "--gives", GivesName,
            show_default="detected; required for a sigmoid without --multi-label",
            help="What that output contains; logits get a softmax."),
]  # fmt: skip
MultiLabel = Annotated[
    bool,
    option(NETWORK, "--multi-label",
            help="The labels are independent: an image has any number of them. Logits get a "
            "sigmoid instead of a softmax."),
]  # fmt: skip
Threshold = Annotated[
    float | None,
    option(NETWORK, "--threshold", metavar="FRACTION", parser=values.fraction, show_default="0.5",
            help="The least probability of a label that an image has, with --multi-label."),
]  # fmt: skip
Thresholds = Annotated[
    Path | None,
    option(NETWORK, "--thresholds", metavar="FILE", show_default="--threshold for all",
            help="JSON object of label ids, each with its own threshold."),
]  # fmt: skip
ChannelsName = Literal["rgb", "bgr"]
Channels = Annotated[
    ChannelsName,
    choice(NETWORK, "--channels", ChannelsName,
            help="Channel order of the input. --mean and --std are in RGB order either way."),
]  # fmt: skip
ServedPrecision = Annotated[
    ServedPrecisionName,
    choice(None, "--precision", ServedPrecisionName,
            help="auto uses a faster precision if the file allows it and the provider supports "
            "it, exact that of the file."),
]  # fmt: skip
Provider = Annotated[
    str, choice(None, "--provider", provider_names(), help="Where the model runs.")
]

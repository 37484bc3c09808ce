"""What `resnet-export` can be asked."""

from __future__ import annotations

import argparse
from pathlib import Path

from model_export.architectures import ARCHITECTURES
from model_export.option_types import (
    above_zero,
    count,
    fraction,
    not_below_zero,
    positive,
    seed,
    share,
    share_or_none,
    sizes,
    text,
)
from service import __version__


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="resnet-export", description="Make verified model files for resnet-serve."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_export(commands.add_parser("export", help="trained weights to a model file"))
    _add_verify(commands.add_parser("verify", help="check a model file again"))
    describe = commands.add_parser("describe", help="show what a model file is")
    describe.add_argument("file", type=Path, help="model file")
    describe.add_argument("--json", action="store_true", help="as JSON, golden cases included")
    describe.add_argument("--benchmark", action="store_true", help="with its speed on this CPU")
    listing = commands.add_parser("list", help="show the architectures")
    listing.add_argument("--json", action="store_true", help="as JSON")
    _add_evaluate(commands.add_parser("evaluate", help="measure accuracy on labelled images"))
    _add_compare(commands.add_parser("compare", help="two model files on the same images"))
    _add_adopt(commands.add_parser("adopt", help="a foreign ONNX classifier to a model file"))
    _add_train(commands.add_parser("train", help="a folder of images per class to weights"))
    return parser


def _add_export(export: argparse.ArgumentParser) -> None:
    export.description = (
        "Write trained weights as one self-describing ONNX file, once it was verified against "
        "PyTorch. The base width and the number of classes are the weights' own."
    )
    add = export.add_argument
    add("architecture", nargs="?", choices=ARCHITECTURES, metavar="ARCHITECTURE",
        help="`resnet-export list` shows them")  # fmt: skip
    add("--module", metavar="PACKAGE.MODULE:FACTORY",
        help="in place of an architecture: a function that gives any torch.nn.Module from "
        "normalised RGB [N, 3, H, W] to logits [N, C]; it runs your code")  # fmt: skip
    _add_weights(export)
    _add_contract(export)
    _add_stem(export)
    add("--storage", choices=("fp32", "fp16"),
        help="fp16 halves the file, computation stays in float32 (default: fp32)")  # fmt: skip
    lower = export.add_argument_group("precision")
    lower.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32",
                       help="fp16 for GPUs, int8 for CPUs (default: %(default)s)")  # fmt: skip
    lower.add_argument("--images", type=Path, metavar="SOURCE",
                       help="folder or tar of images: every other one calibrates int8, the rest "
                       "tell the agreement with float32 (default: generated ones)")  # fmt: skip
    lower.add_argument("--calibration-images", type=positive, metavar="N",
                       help="at most (default: 256)")  # fmt: skip
    lower.add_argument("--min-agreement", type=fraction, metavar="FRACTION",
                       help="of labels that are float32's; a file with fewer is refused "
                       "(default: 0.95)")  # fmt: skip
    lower.add_argument("--reduce-range", action=argparse.BooleanOptionalAction,
                       help="weights of 7 bits, which CPUs without VNNI need (default: as this "
                       "CPU needs)")  # fmt: skip
    lower.add_argument("--per-channel", action=argparse.BooleanOptionalAction,
                       help="a scale for each output channel of a weight, or one for all "
                       "(default: for each)")  # fmt: skip


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.description = (
        "Replay a model file's golden cases in ONNX Runtime; with --weights, compare it with "
        "PyTorch as the export did."
    )
    verify.add_argument("file", type=Path, help="model file")
    _add_weights(verify)


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.description = (
        "Measure top-1, top-5 and calibration on images whose class is known: by the folder that "
        "they lie in, by the beginning of their name, or by val_annotations.txt."
    )
    add = evaluate.add_argument
    add("file", type=Path, help="model file")
    add("images", type=Path, help="folder or tar")
    add("--limit", type=positive, metavar="N", help="only the first N images")
    add("--provider", choices=("auto", "cpu", "cuda"), default="auto",
        help="where it runs (default: %(default)s)")  # fmt: skip
    add("--data-set", type=text, metavar="NAME", help="(default: the source's name)")
    add("--write", action="store_true", help="put top-1 and top-5 into the file's contract")
    add("--all-classes", action="store_true", help="show all classes, and not only the worst")
    add("--plot", type=Path, metavar="FILE.html", help="write a reliability plot")
    add("--json", action="store_true", help="as JSON, with all classes")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.description = "Compare answers, speed on this CPU and size of two model files."
    compare.add_argument("first", type=Path, help="model file")
    compare.add_argument("second", type=Path, help="model file of the same labels")
    compare.add_argument("images", type=Path, help="folder or tar; classes need not be known")
    compare.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    compare.add_argument("--json", action="store_true", help="as JSON")


def _add_adopt(adopt: argparse.ArgumentParser) -> None:
    adopt.description = (
        "Make a model file of an ONNX classifier that takes normalised float32 [N, 3, H, W] and "
        "gives logits or probabilities [N, C], for any N."
    )
    add = adopt.add_argument
    add("file", type=Path, help="the ONNX file")
    _add_contract(adopt)
    add("--architecture", type=text, default="adopted", help="(default: %(default)s)")
    add("--output-name", metavar="NAME", help="the output that counts (default: the only one)")
    add("--gives", choices=("logits", "probabilities"),
        help="what that output is (default: by trying)")  # fmt: skip
    add("--channels", choices=("rgb", "bgr"), default="rgb",
        help="order in which it takes them (default: %(default)s); mean and std are for RGB "
        "all the same")  # fmt: skip


def _add_train(train: argparse.ArgumentParser) -> None:
    train.description = (
        "Train a network, or fine-tune a trained one, on a folder that has a folder of images for "
        "each class. A run that was stopped goes on with the same options and --resume."
    )
    add = train.add_argument
    add("folder", type=Path, help="images; a class has its folder's name")
    add("--output", type=Path, required=True, metavar="DIR",
        help="folder of the run: last.pth, best.pth, metrics.csv, metrics.html")  # fmt: skip
    add("--resume", action="store_true", help="go on with the run that is there")
    add("--architecture", choices=ARCHITECTURES, default="resnet18", metavar="NAME",
        help="(default: %(default)s)")  # fmt: skip
    _add_weights(train)
    add("--width", type=positive, metavar="N",
        help="channels of the stem, to which all others are in proportion (default: 64, 96 for "
        "densenet161)")  # fmt: skip
    _add_stem(train)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="(default: %(default)s)")  # fmt: skip
    add("--workers", type=count, default=0, metavar="N",
        help="processes that decode images beside the training (default: %(default)s)")  # fmt: skip
    held = train.add_argument_group("held-out images")
    held.add_argument("--validation", type=Path, metavar="DIR",
                      help="a folder of its own, of the same classes")  # fmt: skip
    held.add_argument("--validation-fraction", type=share, metavar="FRACTION",
                      help="of each class, without such (default: 0.2)")  # fmt: skip
    held.add_argument("--patience", type=positive, metavar="EPOCHS",
                      help="stop after so many without a better top-1 (default: no)")  # fmt: skip
    recipe = train.add_argument_group("recipe")
    add = recipe.add_argument
    add("--epochs", type=positive, default=20, help="(default: %(default)s)")
    add("--batch", type=positive, default=64, help="images in a step (default: %(default)s)")
    add("--optimiser", choices=("sgd", "adamw", "sgd-noise"), default="sgd",
        help="sgd has Nesterov momentum; sgd-noise adds annealed Gaussian noise to its gradients "
        "(default: %(default)s)")  # fmt: skip
    add("--learning-rate", type=above_zero, metavar="RATE",
        help="at its peak (default: by optimiser and batch, lower with --weights)")  # fmt: skip
    add("--warmup-epochs", type=not_below_zero, metavar="EPOCHS",
        help="of a growing rate, before the cosine to 0 (default: 1, or half of a single "
        "epoch)")  # fmt: skip
    add("--weight-decay", type=not_below_zero, default=5e-5, help="(default: %(default)s)")
    add("--label-smoothing", type=share_or_none, default=0.1, help="(default: %(default)s)")
    add("--ema-decay", type=share_or_none, default=0.999,
        help="of the average of parameters that is kept (default: %(default)s)")  # fmt: skip
    add("--amp", choices=("auto", "off", "bf16", "fp16"), default="auto",
        help="mixed precision (default: bf16 or fp16 on a GPU, off on a CPU)")  # fmt: skip
    add("--sizes", type=sizes, metavar="PIXELS:EPOCHS,...",
        help="sides of training images, one after another, for all epochs (default: the input "
        "size)")  # fmt: skip
    add("--min-area", type=share, default=0.35, metavar="FRACTION",
        help="least part of an image that a random crop keeps (default: %(default)s)")  # fmt: skip
    add("--jitter", type=share_or_none, default=0.2, metavar="FRACTION",
        help="most change of brightness and contrast (default: %(default)s)")  # fmt: skip
    add("--flip", action=argparse.BooleanOptionalAction, default=True,
        help="mirror every other image (default: yes)")  # fmt: skip
    add("--seed", type=seed, default=0, help="of all that is random (default: %(default)s)")
    _add_preprocessing(train)


def _add_contract(parser: argparse.ArgumentParser) -> None:
    """Add what a model file's contract needs, wherever the network comes from."""
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE",
        help="NAME.onnx or NAME/VERSION.onnx; one that is there is replaced")  # fmt: skip
    add("--labels", type=Path, metavar="FILE",
        help="classes in output order: a JSON list, of strings or of objects with id and label, or "
        "text with one a line (default for 1000 classes: ImageNet-1k's)")  # fmt: skip
    add("--name", type=text, help="name in the contract (default: after the output file)")
    add("--source-note", type=text, metavar="TEXT",
        help="where the weights came from (default: the file's name)")  # fmt: skip
    add("--max-batch", type=positive, default=32, metavar="N",
        help="largest batch size to verify at (default: %(default)s)")  # fmt: skip
    _add_preprocessing(parser)


def _add_stem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stem", choices=("imagenet", "deep", "small"),
                        help="7x7 convolution and max pooling, three of 3x3 and max pooling, or "
                        "one of 3x3 with stride 2, for images of 32 to 64 pixels (default: by the "
                        "architecture, and by the weights)")  # fmt: skip


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group(
        "preprocessing", "Defaults: those of official weights (known by their checksum), else "
        "ImageNet's: short side resized to 256, crop of 224, bilinear."
    )  # fmt: skip
    images.add_argument("--input-size", type=positive, metavar="PIXELS",
                        help="side of the centre crop that the network takes")  # fmt: skip
    images.add_argument("--resize", type=positive, metavar="PIXELS",
                        help="length of the short side before the crop (default: in the same "
                        "proportion to the input size)")  # fmt: skip
    images.add_argument("--interpolation", choices=("bilinear", "bicubic", "lanczos", "box"))
    images.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="in 0 to 1")
    images.add_argument("--std", type=above_zero, nargs=3, metavar=("R", "G", "B"),
                        help="in 0 to 1")  # fmt: skip


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="SOURCE",
                        help="a .pth, .pt or .safetensors file, or `imagenet` for torchvision's "
                        "official weights")  # fmt: skip
    parser.add_argument("--weights-entry", metavar="KEY",
                        help="entry of the file that has the parameters (default: averaged ones, "
                        "then `state_dict`, `model` and the like)")  # fmt: skip
    parser.add_argument("--cache-dir", type=Path, metavar="DIR",
                        help="folder of downloads (default: ~/.cache/resnet-serve)")  # fmt: skip

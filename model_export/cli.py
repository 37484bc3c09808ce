"""The program `resnet-export`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from model_export.architectures import ARCHITECTURES
from model_export.errors import ExportError, MissingPackageError, OptionsError
from service import __version__
from service.engine.providers import prepare_runtime
from service.errors import ResnetServeError

_PACKAGES = {"torch", "onnx", "onnxscript", "safetensors", "httpx", "rich", "google"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status: 0, 1 for an error, 2 for usage, 130 for Ctrl-C."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed why
        return stop.code if isinstance(stop.code, int) else 2
    try:
        _command(options.command)(options)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - explained, or with traceback
        message, status = _explain(error)
        sys.stderr.write(f"resnet-export: {message}\n")
        return status
    return 0


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """Import the command, only now: PyTorch alone takes seconds."""
    try:
        if name == "describe":
            from model_export.describe import describe_command  # noqa: PLC0415

            return describe_command
        prepare_runtime()
        from model_export.commands import export_command, verify_command  # noqa: PLC0415
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise MissingPackageError(
            f"the package {package} is not installed; run `pip install 'resnet-serve[export,cpu]'`"
        ) from error
    return export_command if name == "export" else verify_command


def _explain(error: BaseException) -> tuple[str, int]:
    """Give the line to print and the exit status; a defect's traceback is printed here."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, (ExportError, ResnetServeError)):
        return f"error: {error}", 2 if isinstance(error, OptionsError) else 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror or error}", 1
    traceback.print_exception(error)
    return "error: this is a defect of resnet-export; please report the lines above", 1


def _parser() -> argparse.ArgumentParser:
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
    return parser


def _add_export(export: argparse.ArgumentParser) -> None:
    export.description = (
        "Write trained weights as one self-describing ONNX file, once it was verified against "
        "PyTorch. The base width and the number of classes are the weights' own."
    )
    export.add_argument("architecture", choices=ARCHITECTURES, metavar="ARCHITECTURE",
                        help=", ".join(ARCHITECTURES))  # fmt: skip
    _add_weights(export, required=True)
    add = export.add_argument
    add("--output", type=Path, required=True, metavar="FILE",
        help="NAME.onnx or NAME/VERSION.onnx; one that is there is replaced")  # fmt: skip
    add("--labels", type=Path, metavar="FILE",
        help="classes in output order: a JSON list, of strings or of objects with id and label, or "
        "text with one a line (default for 1000 classes: ImageNet-1k's)")  # fmt: skip
    add("--stem", choices=("imagenet", "small"), default="imagenet",
        help="7x7 convolution and max pooling, or 3x3 convolution of stride 2 "
        "(default: %(default)s)")  # fmt: skip
    add("--name", type=_text, help="name in the contract (default: after the output file)")
    add("--source-note", type=_text, metavar="TEXT",
        help="where the weights came from (default: the weights file's name)")  # fmt: skip
    add("--storage", choices=("fp32", "fp16"), default="fp32",
        help="fp16 halves the file, computation stays in float32 (default: "
        "%(default)s)")  # fmt: skip
    add("--max-batch", type=_positive, default=32, metavar="N",
        help="largest batch size to verify at (default: %(default)s)")  # fmt: skip
    images = export.add_argument_group(
        "preprocessing", "Defaults: those of official weights (known by their checksum), else "
        "ImageNet's: short side resized to 256, crop of 224, bilinear."
    )  # fmt: skip
    images.add_argument("--input-size", type=_positive, metavar="PIXELS",
                        help="side of the centre crop that the network takes")  # fmt: skip
    images.add_argument("--resize", type=_positive, metavar="PIXELS",
                        help="length of the short side before the crop (default: in the same "
                        "proportion to the input size)")  # fmt: skip
    images.add_argument("--interpolation", choices=("bilinear", "bicubic", "lanczos", "box"))
    images.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="in 0 to 1")
    images.add_argument("--std", type=_above_zero, nargs=3, metavar=("R", "G", "B"),
                        help="in 0 to 1")  # fmt: skip


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.description = (
        "Replay a model file's golden cases in ONNX Runtime; with --weights, compare it with "
        "PyTorch as the export did."
    )
    verify.add_argument("file", type=Path, help="model file")
    _add_weights(verify, required=False)


def _add_weights(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--weights", required=required, metavar="SOURCE",
                        help="a .pth, .pt or .safetensors file, or `imagenet` for torchvision's "
                        "official weights")  # fmt: skip
    parser.add_argument("--cache-dir", type=Path, metavar="DIR",
                        help="folder of downloads (default: ~/.cache/resnet-serve)")  # fmt: skip


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 1 or more")
    return int(text)


def _above_zero(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text.strip()

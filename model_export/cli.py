"""The program `resnet-export`."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from model_export.errors import ExportError, MissingPackageError, OptionsError
from model_export.interrupts import Interrupts
from model_export.options import make_parser
from service.engine.providers import install_command, prepare_runtime
from service.errors import ResnetServeError

_PACKAGES = {"torch", "onnx", "onnxscript", "safetensors", "httpx", "rich", "google"}

_BY_SIGNAL = 128  # and the signal's number, as a shell has it

_COMMANDS = {
    "export": ("model_export.commands", "export_command"),
    "verify": ("model_export.commands", "verify_command"),
    "describe": ("model_export.describe", "describe_command"),
    "list": ("model_export.listing", "list_command"),
    "evaluate": ("model_export.evaluate", "evaluate_command"),
    "compare": ("model_export.compare", "compare_command"),
    "adopt": ("model_export.adopt", "adopt_command"),
    "train": ("model_export.training.command", "train_command"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status.

    That is 0, 1 for an error, 2 for usage, 130 for Ctrl-C and 143 for SIGTERM.
    """
    try:
        options = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed why
        return stop.code if isinstance(stop.code, int) else 2
    interrupts = Interrupts()
    try:
        with interrupts:
            _command(options.command)(options)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - explained, or with traceback
        if interrupts.received or isinstance(error, KeyboardInterrupt):
            number = interrupts.received or signal.SIGINT
            message, status = "interrupted", _BY_SIGNAL + number
        else:
            message, status = _explain(error)
        sys.stderr.write(f"resnet-export: {message}\n")
        return status
    return 0


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """Import the command, only now: PyTorch alone takes seconds."""
    module, function = _COMMANDS[name]
    prepare_runtime()
    try:
        command: Callable[[argparse.Namespace], None] = getattr(
            importlib.import_module(module), function
        )
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise MissingPackageError(
            f"the package {package} is not installed; run {install_command('export,cpu')}"
        ) from error
    return command


def _explain(error: BaseException) -> tuple[str, int]:
    """Give the line to print and the exit status; a defect's traceback is printed here."""
    if isinstance(error, (ExportError, ResnetServeError)):
        return f"error: {error}", 2 if isinstance(error, OptionsError) else 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror or error}", 1
    traceback.print_exception(error)
    return "error: this is a defect of resnet-export; please report the lines above", 1

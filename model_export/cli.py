"""The program `resnet-export`."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from model_export.damage import is_out_of_memory
from model_export.errors import ExportError, MissingPackageError, OptionsError
from model_export.interrupts import Interrupts
from service.engine.builds import install_command, prepare_runtime
from service.errors import ResnetServeError
from service.starting import open_missing_streams

_PACKAGES = {"torch", "onnx", "onnxscript", "safetensors", "httpx", "rich", "google", "typer"}

_Result = TypeVar("_Result")

_BY_SIGNAL = 128  # plus the signal's number, as shells report it


def program() -> NoReturn:
    """Run the program as this process, which then exits."""
    open_missing_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Before and after `main`, Ctrl-C ends the process without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status.

    It is 0, or 1 after an error, 2 for invalid usage, 130 after Ctrl-C and 143 after SIGTERM.
    """
    interrupts = Interrupts()
    try:
        with interrupts:
            job = _with_packages(lambda: _read(argv))
            if interrupts.received:  # Typer turns the exception into an exit
                raise KeyboardInterrupt  # noqa: TRY301 - raised again
            if job is not None:
                prepare_runtime()
                _with_packages(job)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - explained or with a traceback
        if interrupts.received or isinstance(error, KeyboardInterrupt):
            number = interrupts.received or signal.SIGINT
            message, status = "interrupted", _BY_SIGNAL + number
        else:
            message, status = _explain(error)
        sys.stderr.write(f"resnet-export: {message}\n")
        return status
    return 0


def _read(argv: Sequence[str] | None) -> Callable[[], None] | None:
    # Imported late: Typer is not part of the serving install.
    from model_export.command_line.app import read_arguments  # noqa: PLC0415

    return read_arguments(argv)


def _with_packages(run: Callable[[], _Result]) -> _Result:
    """Call `run`; raise `MissingPackageError` if a package of the `export` extra is missing."""
    try:
        return run()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise MissingPackageError(
            f"the package {package} is not installed; run {install_command('export,cpu')}"
        ) from error


def _explain(error: BaseException) -> tuple[str, int]:
    """Return the line to print and the exit status; print the traceback of a bug."""
    if isinstance(error, (ExportError, ResnetServeError)):
        return f"error: {error}", 2 if isinstance(error, OptionsError) else 1
    if is_out_of_memory(error):
        return "error: out of memory; try a smaller batch, image or network", 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror or error}", 1
    traceback.print_exception(error)
    return "error: this is a bug in resnet-export; please report the lines above", 1

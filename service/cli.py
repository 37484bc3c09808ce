"""The program `resnet-serve`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import BinaryIO

from service import __version__
from service.bench.cli import add_bench, run_bench
from service.engine.providers import prepare_runtime
from service.errors import StartupError
from service.settings import PREFIX, Settings, add_flags, load_settings
from service.starting import open_missing_streams

_LOG_FLUSH_S = 1.0
_INTERRUPTED = 130  # 128 and the signal's number, as a shell has it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status. A mistake at the start is one line and status 1."""
    open_missing_streams()
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        return _serve(arguments) if command == "serve" else run_bench(arguments)
    except StartupError as error:
        print(f"resnet-serve: error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _leave_while_starting(*_: object) -> None:
    """Nothing has been accepted yet, so to leave at once is a clean stop.

    Without the interpreter's own end, which aborts while another thread opens a model.
    """
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnet-serve",
        description="Serve image classifiers, and measure it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="answer images over HTTP",
        description="Answer images over HTTP. Flags win over the environment "
        f"({PREFIX}PORT for --port), which wins over the defaults [in brackets].",
        allow_abbrev=False,
    )
    add_flags(serve)
    add_bench(commands)
    return parser


def _serve(flags: dict[str, object]) -> int:
    # As process 1 of a container, a signal without a handler would be lost until the server runs.
    signal.signal(signal.SIGTERM, _leave_while_starting)
    settings, warnings = load_settings(flags, os.environ)
    prepare_runtime()
    from service.logs.configure import as_text  # noqa: PLC0415 - imports structlog
    from service.logs.native import native_output_logged  # noqa: PLC0415

    text = as_text(settings.log_format, sys.stderr)
    with native_output_logged(as_text=text, level=settings.log_level) as stderr:
        status = _serve_logged(settings, warnings, stderr)
    if threading.active_count() > 1:
        # A decode, batch or warm-up that does not end must not keep the process from ending.
        os._exit(status)
    return status


def _serve_logged(settings: Settings, warnings: Sequence[str], stderr: BinaryIO) -> int:
    """Serve with a log that goes to the real stderr."""
    # Only now: these import ONNX Runtime.
    import structlog  # noqa: PLC0415

    from service.app import create_app  # noqa: PLC0415
    from service.logs import LogWriter, configure_logs  # noqa: PLC0415
    from service.server import run_server  # noqa: PLC0415

    logs = LogWriter(stderr)

    def leave() -> None:
        logs.close(_LOG_FLUSH_S)
        _leave_while_starting()

    # On a thread, since the handler may have interrupted the log itself.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=leave).start())
    try:
        configure_logs(settings.log_format, settings.log_level, logs)
        for warning in warnings:
            structlog.get_logger(__name__).warning("setting_passed_over", detail=warning)
        return run_server(create_app(settings), settings, logs)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        logs.close(_LOG_FLUSH_S)

"""The program `resnet-serve`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence

from service import __version__
from service.bench.cli import add_bench, run_bench
from service.engine.providers import prepare_runtime
from service.errors import StartupError
from service.settings import PREFIX, add_flags, load_settings

_LOG_FLUSH_S = 1.0
_INTERRUPTED = 130  # 128 and the signal's number, as a shell has it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status. A mistake at the start is one line and status 1."""
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        return _serve(arguments) if command == "serve" else _bench(arguments)
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


def _bench(flags: dict[str, object]) -> int:
    prepare_runtime()
    return run_bench(flags)


def _serve(flags: dict[str, object]) -> int:
    # As process 1 of a container, a signal without a handler would be lost until the server runs.
    signal.signal(signal.SIGTERM, _leave_while_starting)
    settings, warnings = load_settings(flags, os.environ)
    prepare_runtime()
    # Only now: these import ONNX Runtime.
    import structlog  # noqa: PLC0415

    from service.app import create_app  # noqa: PLC0415
    from service.logs import LogWriter, configure_logs  # noqa: PLC0415
    from service.memory import share_one_arena  # noqa: PLC0415
    from service.server import run_server  # noqa: PLC0415

    share_one_arena()  # before there is a thread
    logs = LogWriter(sys.stderr)

    def leave() -> None:
        logs.close(_LOG_FLUSH_S)
        _leave_while_starting()

    # On a thread, since the handler may have interrupted the log itself.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=leave).start())
    try:
        configure_logs(settings.log_format, settings.log_level, logs)
        for warning in warnings:
            structlog.get_logger(__name__).warning("setting_passed_over", detail=warning)
        status = run_server(create_app(settings), settings, logs)
    except KeyboardInterrupt:
        status = _INTERRUPTED
    finally:
        logs.close(_LOG_FLUSH_S)
    if threading.active_count() > 1:
        # A decode, batch or warm-up that does not end must not keep the process from ending.
        os._exit(status)
    return status

"""The program `resnet-serve`.

What is imported here at the top is small: until `main` runs, a signal has its default effect, which
for process 1 of a container is none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from service import __version__
from service.starting import (
    INTERRUPTED,
    LeaveAtSignal,
    open_missing_streams,
    switch_threads_often,
)

TYPE_CHECKING = False  # as type checkers know it: `typing` itself takes longer than all of these
if TYPE_CHECKING:
    import argparse
    from typing import BinaryIO

    from service.settings import Settings

_LOG_FLUSH_S = 1.0

_SERVE_EXAMPLES = """\
examples:
  resnet-serve serve                                       the built-in model on 127.0.0.1:8000
  resnet-serve serve --models models --default-model flowers --port 8080
  resnet-serve serve --models flowers.onnx --host 0.0.0.0 --root-path /images
  RESNET_SERVE_MODELS=models resnet-serve serve --log-level warning
"""

_EXAMPLES = """\
examples:
  resnet-serve serve
  resnet-serve serve --models models --default-model flowers --port 8080
  resnet-serve classify photos/ --output labels.csv
  resnet-serve bench --images synthetic:64x64 --clients 32
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status. A mistake at the start is one line and status 1."""
    open_missing_streams()
    given = sys.argv[1:] if argv is None else list(argv)
    leaving = LeaveAtSignal()
    if given[:1] == ["serve"]:
        from service.arenas import share_one_arena  # noqa: PLC0415

        share_one_arena()  # before there is a thread
        leaving.begin()
    try:
        from service.errors import StartupError  # noqa: PLC0415

        arguments = vars(_parser().parse_args(given))
        command = arguments.pop("command")
        if command == "serve":
            return _serve(arguments, leaving)
        if command == "key":
            return _key(arguments)
        return _classify(arguments) if command == "classify" else _bench(arguments)
    except KeyboardInterrupt:  # first, since the import above may be interrupted, too
        return INTERRUPTED
    except StartupError as error:
        print(f"resnet-serve: error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _parser() -> argparse.ArgumentParser:
    import argparse  # noqa: PLC0415

    from service.access.cli import add_key  # noqa: PLC0415
    from service.bench.cli import add_bench  # noqa: PLC0415
    from service.classify.cli import add_classify  # noqa: PLC0415
    from service.settings import PREFIX, add_flags  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog="resnet-serve",
        description="Serve image classifiers over HTTP, classify files, and benchmark the server.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve models over HTTP",
        description="Serve models over HTTP. Flags override environment variables "
        f"({PREFIX}PORT\nfor --port), which override the defaults [in brackets].",
        epilog=_SERVE_EXAMPLES,
        usage="%(prog)s [FLAGS]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(serve)
    add_key(commands)
    add_classify(commands)
    add_bench(commands)
    return parser


def _bench(flags: dict[str, object]) -> int:
    from service.bench.cli import run_bench  # noqa: PLC0415

    return run_bench(flags)


def _key(arguments: dict[str, object]) -> int:
    from service.access.cli import run_key  # noqa: PLC0415

    return run_key(arguments)


def _classify(flags: dict[str, object]) -> int:
    from service.arenas import share_one_arena  # noqa: PLC0415
    from service.classify.cli import run_classify  # noqa: PLC0415

    share_one_arena()  # before there is a thread
    switch_threads_often()
    return run_classify(flags)


def _serve(flags: dict[str, object], leaving: LeaveAtSignal) -> int:
    import threading  # noqa: PLC0415

    from service.engine.builds import prepare_runtime  # noqa: PLC0415
    from service.files import user_cache  # noqa: PLC0415
    from service.settings import load_settings  # noqa: PLC0415

    settings, warnings = load_settings(flags, os.environ, user_cache())
    prepare_runtime()
    from service.logs.configure import as_text  # noqa: PLC0415 - imports structlog
    from service.logs.native import native_output_logged  # noqa: PLC0415

    text = as_text(settings.log_format, sys.stderr)
    with native_output_logged(as_text=text, level=settings.log_level) as stderr:
        status = _serve_logged(settings, warnings, stderr, leaving)
    if threading.active_count() > 1:
        # A decode, batch or warm-up that does not end must not keep the process from ending.
        os._exit(status)
    return status


def _serve_logged(
    settings: Settings, warnings: Sequence[str], stderr: BinaryIO, leaving: LeaveAtSignal
) -> int:
    """Serve with a log that goes to the real stderr."""
    # Only now: these import ONNX Runtime.
    from contextlib import ExitStack  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    from service.app import create_app  # noqa: PLC0415
    from service.logs import LogWriter, configure_logs  # noqa: PLC0415
    from service.server import bind, run_server  # noqa: PLC0415

    logs = LogWriter(stderr)
    leaving.before_leaving = lambda: logs.close(_LOG_FLUSH_S)
    try:
        configure_logs(settings.log_format, settings.log_level, logs)
        for warning in warnings:
            structlog.get_logger(__name__).warning("setting_passed_over", detail=warning)
        with ExitStack() as stack:
            listener = stack.enter_context(bind(settings.host, settings.port))
            monitoring = None
            if settings.metrics_port is not None:
                monitoring = stack.enter_context(
                    bind(settings.host, settings.metrics_port, "--metrics-port")
                )
            return run_server(create_app(settings), settings, logs, listener, monitoring)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        logs.close(_LOG_FLUSH_S)

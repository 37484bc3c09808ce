"""The program `resnet-serve`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from service import __version__
from service.engine.providers import prepare_runtime
from service.errors import StartupError
from service.settings import PREFIX, add_flags, load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status. A mistake at the start is one line and status 1."""
    arguments = vars(_parser().parse_args(argv))
    arguments.pop("command")
    try:
        return _serve(arguments)
    except StartupError as error:
        print(f"resnet-serve: error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnet-serve", description="Serve image classifiers.", allow_abbrev=False
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
    return parser


def _serve(flags: dict[str, object]) -> int:
    settings, warnings = load_settings(flags, os.environ)
    prepare_runtime()
    # Only now: these import ONNX Runtime.
    import structlog  # noqa: PLC0415

    from service.app import create_app  # noqa: PLC0415
    from service.logs import configure_logs  # noqa: PLC0415
    from service.server import run_server  # noqa: PLC0415

    configure_logs(settings.log_format, settings.log_level)
    for warning in warnings:
        structlog.get_logger(__name__).warning("setting_passed_over", detail=warning)
    return run_server(create_app(settings), settings)

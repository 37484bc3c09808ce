"""`resnet-serve bench`: flags in, a report out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from service.bench.checks import check
from service.bench.errors import OptionError
from service.bench.options import STDOUT, add_flags, read_options
from service.engine.builds import prepare_runtime

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_INTERRUPTED = 130  # 128 plus the signal's number, as shells report it

_DESCRIPTION = """\
Load-test a server on this machine, check every answer, and report latency,
throughput and errors. With --limits, measure what the model and decoding
achieve without a server. Defaults are [in brackets].
"""

_EPILOG = """\
examples:
  resnet-serve bench --images synthetic:64x64 --clients 32 --html report.html
  resnet-serve bench --images photos/ --mode poisson --sweep 100,200 --deadline-ms 1000
  resnet-serve bench --json - | jq '.runs[0].latency_ms'
  resnet-serve bench --limits

exit status:
  0    no wrong answers (other errors are only reported)
  1    a wrong answer, including during warm-up, or the benchmark could not run
       (a one-line message says why)
  2    unknown flag
  130  interrupted with Ctrl-C
"""


def add_bench(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `bench` command with its flags."""
    parser = subparsers.add_parser(
        "bench",
        help="load-test a server on this machine and check its answers",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        usage="%(prog)s [FLAGS]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser)


def run_bench(arguments: Mapping[str, Any]) -> int:
    """Run the benchmark with parsed flags and return the exit status.

    It is 130 if Ctrl-C ended the run (what was measured is reported), and 1 if an answer was wrong,
    even one in the warm-up.

    Raises a `StartupError` if the benchmark can't run as requested.
    """
    options = read_options(arguments)
    check(options)
    prepare_runtime()
    # Imported late: --help and errors in flags need none of this.
    from service.bench.html_report import render_html  # noqa: PLC0415
    from service.bench.load import WRONG_ANSWER  # noqa: PLC0415
    from service.bench.progress import Progress  # noqa: PLC0415
    from service.bench.run import measure, render_json  # noqa: PLC0415
    from service.bench.text_report import render_text  # noqa: PLC0415

    outputs: list[tuple[Path | None, Callable[[dict[str, Any]], str]]] = [
        (options.json_file, render_json),
        (options.html_file, render_html),
    ]
    progress = Progress()
    try:
        report = measure(options, progress)
    finally:
        progress.clear()
    with ExitStack() as files:  # each one is written even if others fail
        for path, render in reversed(outputs):
            if path is not None:
                files.callback(_render, render, report, path)
        _print(render_text(report), sys.stderr if options.takes_stdout else sys.stdout)
    if report["interrupted"]:
        return _INTERRUPTED
    runs = report.get("runs", ())
    return int(any(WRONG_ANSWER in run["errors"] | run["warm_up_errors"] for run in runs))


def _render(render: Callable[[dict[str, Any]], str], report: dict[str, Any], path: Path) -> None:
    text = render(report)
    if path == STDOUT:
        _print(text, sys.stdout)
        return
    try:
        path.write_text(text, "utf-8", "backslashreplace")
    except OSError as error:
        raise OptionError(f"{path}: can't be written: {error.strerror}") from error


def _print(text: str, stream: TextIO) -> None:
    encoding = stream.encoding or "utf-8"
    try:
        # Characters that the terminal can't show, as in odd file names, must not lose the report.
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        raise OptionError(f"the report can't be printed: {error.strerror}") from error

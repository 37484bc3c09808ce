"""`resnet-serve classify`: paths in, rows out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from service.classify.options import ClassifyOptions, add_flags, read_options

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from service.classify.run import Count
    from service.progress import Progress

_INTERRUPTED, _PIPE_CLOSED = 130, 141  # 128 plus the signal's number, as shells report it
_SOME_FAILED = 3

_DESCRIPTION = """\
Classify images, with a model in this process or a server, and write a row for
each: its labels, or its error. Rows are in the order of the images. Defaults
are [in brackets].
"""

_EPILOG = """\
examples:
  resnet-serve classify photos/ 'more/**/*.jpg'
  resnet-serve classify photos.tar --model models/flowers.onnx --output labels.parquet
  resnet-serve classify photos.tar --model models/flowers.onnx --output labels.parquet --resume
  resnet-serve classify photos/ --url http://127.0.0.1:8000 --top-k 1 --format csv > labels.csv
  curl -s https://example.org/cat.jpg | resnet-serve classify -

exit status:
  0    every image has labels
  1    the run was not possible or could not go on (a one-line message says why)
  2    unknown flag
  3    some images have an error instead of labels
  130  interrupted with Ctrl-C
"""


def add_classify(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `classify` command with its flags."""
    parser = subparsers.add_parser(
        "classify",
        help="classify image files, with a model file or a server",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        usage="%(prog)s PATH... [FLAGS]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser)


def run_classify(arguments: Mapping[str, Any]) -> int:
    """Classify with parsed flags and return the exit status.

    Raises a `StartupError` if that is not possible, or can't go on.
    """
    options = read_options(arguments)
    # Imported late: --help and errors in flags need none of this.
    from service.classify.formats import check_format, format_of  # noqa: PLC0415
    from service.classify.sources import check_paths  # noqa: PLC0415
    from service.progress import Progress  # noqa: PLC0415

    name = options.format
    if name == "auto":
        name = format_of(options.output, on_terminal=sys.stdout.isatty())
    check_format(name)
    check_paths(options.paths)
    progress = Progress()
    progress.show("opening the model" if options.url is None else f"asking {options.url}")
    try:
        count = _run(options, name, progress)
    except KeyboardInterrupt:
        progress.clear()
        _say(_to_go_on(options))
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read the rows has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    finally:
        progress.clear()
    if count.errors:
        _say(f"{count.errors} of {count.rows} images have an error")
    return _SOME_FAILED if count.errors else 0


def _run(options: ClassifyOptions, name: str, progress: Progress) -> Count:
    from service.classify.run import to_file, to_stream  # noqa: PLC0415

    if options.output is None:
        return to_stream(options, name, sys.stdout.buffer, progress)
    return to_file(options, name, options.output, progress)


def _to_go_on(options: ClassifyOptions) -> str:
    if options.output is None:
        return "interrupted"
    return f"interrupted; the same command with --resume continues {options.output}"


def _say(text: str) -> None:
    print(f"resnet-serve: {text}", file=sys.stderr)  # noqa: T201

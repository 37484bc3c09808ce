"""Compares resnet-serve with other servers that serve the same model file.

    python benchmarks/peers/run.py --setup
    python benchmarks/peers/run.py [--model-file FILE] [--images IMAGES] [--rounds N] [...]

In each round, every server in turn is started, loaded with each number of clients, and stopped, so
that a slow phase of the machine affects all of them. Every answer is checked against the model
file. README.md explains how each server is set up, and why.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from processes import adopt_orphans, temporary_folder
from servers import SERVERS, set_up
from table import render

from service.engine.builds import prepare_runtime
from service.engine.providers import CPU
from service.errors import StartupError

_INTERRUPTED = 130


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags; ends the program with a message where they don't fit."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    flag = parser.add_argument
    flag("--setup", action="store_true", help="install missing peers and exit")
    flag("--servers", type=_names, default=",".join(SERVERS), help="servers to run, in this order")
    flag("--model-file", type=Path, help="model file (default: the built-in one)")
    flag("--images", default="synthetic:64x64", help="folder, tar or synthetic:WIDTHxHEIGHT")
    flag("--image-count", type=_count, default=1000, help="maximum number of distinct images")
    flag("--clients", type=_counts, default="1,8,32", help="numbers of clients; one load for each")
    flag("--rounds", type=_count, default=5)
    flag("--duration", type=float, default=5.0, help="seconds to measure per load")
    flag("--warm-up", type=float, default=3.0, help="warm-up seconds before each load")
    flag("--max-batch", type=_count, default=CPU.max_batch,
         help="maximum images per batch, for all servers")  # fmt: skip
    flag("--max-delay-ms", type=_count, default=1,
         help="batching window of the peers that have one")  # fmt: skip
    flag(
        "--no-limits", action="store_true", help="skip measuring the machine's limits without HTTP"
    )
    flag("--output", type=Path, default=Path(__file__).parent / "results" / "peers.json",
         help="result file, updated after each load")  # fmt: skip
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(SERVERS)):
        known = ", ".join(SERVERS)
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {known}")
    return list(dict.fromkeys(names))


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part.strip()) for part in text.split(",")]


def main() -> int:
    """Run the program; return its exit status."""
    arguments = parse_arguments()
    if arguments.setup:
        problems = set_up(SERVERS[name] for name in arguments.servers)
        for name, problem in problems.items():
            print(f"{name}: {problem}", file=sys.stderr)
        return int(bool(problems))
    prepare_runtime()
    from comparison import Comparison  # noqa: PLC0415 - imports ONNX Runtime, so only now

    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    status = 0
    with temporary_folder() as folder:
        try:
            comparison = Comparison(arguments, folder)
        except StartupError as error:
            print(f"run.py: error: {error}", file=sys.stderr)
            return 1
        try:
            comparison.run()
        except KeyboardInterrupt:
            comparison.interrupted()
            status = _INTERRUPTED
    print(render(comparison.result), end="")
    return status or int(bool(comparison.result["problems"]))


if __name__ == "__main__":
    sys.exit(main())

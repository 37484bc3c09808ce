"""MLPerf's LoadGen against a running service on this machine, over HTTP.

    pip install mlcommons-loadgen
    resnet-serve serve &
    python benchmarks/loadgen.py --scenario SingleStream
    python benchmarks/loadgen.py --scenario Server --server-target-qps 100 --latency-bound-ms 50
    python benchmarks/loadgen.py --scenario Offline --offline-expected-qps 200
    python benchmarks/loadgen.py --scenario Offline --mode accuracy --reference local

LoadGen decides what is asked when, takes the times and gives the verdict; its logs stay in
`--log-dir`. The server is asked by the client of `resnet-serve bench`, and every answer is compared
with a reference answer, in the accuracy mode once more from LoadGen's own log.

- SingleStream: the next query comes when the last is answered. MLPerf's figure is the 90th
  percentile of latency.
- Server: queries arrive at random, `--server-target-qps` a second in the mean; valid where 99 of
  100 are answered within `--latency-bound-ms` of their scheduled arrival.
- Offline: all samples are there at once; the figure is samples a second. `--connections` of them
  are in flight. That is below the service's default `max_queue` of 256, so that nothing is refused;
  a sample that is refused all the same (503) is tried again after a second, the least that
  `Retry-After` says, and the waits are in the figure.

LoadGen knows no failed query: one that is refused (but for Offline), lost or answered wrongly is
told to it as answered. So failures are counted here, and with any the result is invalid, whatever
LoadGen says, and the exit status 1. LoadGen's own INVALID alone gives 3: for a run too short, say
(it wants 459 queries to believe in a 99th percentile).

This is LoadGen's traffic and timing, not a submission to MLPerf: the network, the data and the
durations are not those of its rules, and client and server share the machine's cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from arguments import count
from loadgen_results import render
from loadgen_run import CONNECTIONS, measure

from service.errors import StartupError

SCENARIOS = ("SingleStream", "Server", "Offline")

_SWITCH_S = 0.0005
"""How long the event loop may keep the interpreter from LoadGen's thread that is due to issue a
query; Python's default of 5 ms would delay arrivals by up to that."""

_FAILED, _INVALID, _INTERRUPTED = 1, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a test; return the exit status: 0 valid, 1 failed queries, 3 invalid for LoadGen."""
    arguments = _parser().parse_args(argv)
    try:
        loadgen = importlib.import_module("mlperf_loadgen")
    except ModuleNotFoundError:
        print("loadgen: run `pip install mlcommons-loadgen` first", file=sys.stderr)
        return _FAILED
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        report = measure(loadgen, arguments)
    except (StartupError, OSError) as error:
        print(f"loadgen: error: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        # LoadGen can't be stopped, and its threads must not find the interpreter gone.
        os._exit(_INTERRUPTED)
    finally:
        sys.setswitchinterval(switch_s)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(render(report))
    if report["failed"]:
        return _FAILED
    return 0 if report["valid"] else _INVALID


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="server, on this machine [%(default)s]")
    add("--images", default="synthetic",
        help="a folder or tar of images, or synthetic:WIDTHxHEIGHT [%(default)s]")  # fmt: skip
    add("--image-count", type=int, default=200, help="distinct images at most [%(default)s]")
    add("--model", help="model to ask for; the server's default if none")
    add("--scenario", choices=SCENARIOS, default="SingleStream", help="[%(default)s]")
    add("--mode", choices=("performance", "accuracy"), default="performance",
        help="accuracy: each image once, its answer logged and compared [%(default)s]")  # fmt: skip
    add("--server-target-qps", type=float, default=50.0, help="mean arrivals [%(default)s]")
    add("--offline-expected-qps", type=float, default=200.0,
        help="samples of Offline: 1.1 times this times --min-duration-s [%(default)s]")  # fmt: skip
    add("--latency-bound-ms", type=float, default=100.0,
        help="Server: for 99 of 100 queries [%(default)s]")  # fmt: skip
    add("--min-duration-s", type=float, default=10.0, help="[%(default)s]")
    add("--min-queries", type=int, default=100,
        help="LoadGen goes on until both are reached; Server needs 459 [%(default)s]")  # fmt: skip
    add("--connections", type=count, help=f"in flight at most [{CONNECTIONS}]")
    add("--deadline-ms", type=int, help="send this as X-Request-Timeout-Ms")
    add("--timeout-s", type=float, default=30.0,
        help="an answer that takes longer has failed [%(default)s]")  # fmt: skip
    add("--reference", choices=("server", "local"), default="server",
        help="right answers: the server's own, asked one at a time before, or --model-file run "
        "here [%(default)s]")  # fmt: skip
    add("--model-file", type=Path, help="for --reference local; the built-in if none")
    add("--log-dir", type=Path, default=Path(__file__).with_name("logs"),
        help="where LoadGen's logs go [%(default)s]")  # fmt: skip
    add("--json", type=Path, help="write the report as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

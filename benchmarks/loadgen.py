"""Run MLPerf LoadGen against a service on this machine, over HTTP.

    pip install mlcommons-loadgen
    resnet-serve serve &
    python benchmarks/loadgen.py --scenario SingleStream
    python benchmarks/loadgen.py --scenario Server --server-target-qps 100 --latency-bound-ms 50
    python benchmarks/loadgen.py --scenario Offline --offline-expected-qps 200
    python benchmarks/loadgen.py --scenario Offline --mode accuracy --reference local

LoadGen schedules the queries, measures the times and decides whether the run is valid; its logs are
kept in `--log-dir`. Requests are sent by the client of `resnet-serve bench`, and every answer is
compared with a reference answer; in accuracy mode, the answers in LoadGen's own log are compared,
too.

- SingleStream: each query is sent when the previous one is answered. The metric is the 90th
  percentile of latency.
- Server: queries arrive at random, `--server-target-qps` per second on average; valid if 99 of 100
  are answered within `--latency-bound-ms` of their scheduled arrival.
- Offline: all samples are available at once; the metric is samples per second. `--connections`
  requests are in flight. That is below the service's default `max_queue` of 256, so none should be
  refused; one that is (503) is retried after a second, the minimum `Retry-After`, and the wait
  counts.

LoadGen has no notion of a failed query: one that is refused (except in Offline), lost or answered
wrongly is reported to it as answered. Failures are therefore counted here; any failure makes the
result invalid, whatever LoadGen says, and the exit status 1. If only LoadGen reports INVALID, for
example because the run is too short (it needs 459 queries for a 99th percentile), the status is 3.

This uses LoadGen's traffic and timing, but it is not an MLPerf submission: network, data and
durations do not follow its rules, and client and server share the machine's cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from arguments import count, positive
from loadgen_results import render
from loadgen_run import CONNECTIONS, measure

from service.bench.checks import check
from service.bench.options import DEFAULT_URL, add_flags, read_options
from service.errors import StartupError

SHARED: Mapping[str, str] = MappingProxyType(
    {
        "url": f"server URL, on this machine only [{DEFAULT_URL}]",
        "images": "",
        "image_count": "",
        "model": "",
        "deadline_ms": "send this as X-Request-Timeout-Ms",
        "timeout_s": "",
        "reference": "",
        "model_file": "model file for --reference local; not set: the built-in one",
    }
)
"""The flags of `resnet-serve bench` that this program has, too; some have a narrower meaning."""

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
        options = read_options({name: getattr(arguments, name) for name in SHARED})
        check(options)
        report = measure(loadgen, options, arguments)
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
    add_flags(parser, SHARED)
    add = parser.add_argument_group("LoadGen").add_argument
    add("--scenario", choices=SCENARIOS, default="SingleStream", help="[%(default)s]")
    add("--mode", choices=("performance", "accuracy"), default="performance",
        help="accuracy: send each image once and compare its answer [%(default)s]")  # fmt: skip
    add("--server-target-qps", type=positive, default=50.0, metavar="N",
        help="Server: mean arrivals per second [%(default)s]")  # fmt: skip
    add("--offline-expected-qps", type=positive, default=200.0, metavar="N",
        help="Offline: 1.1 x this x --min-duration-s samples [%(default)s]")  # fmt: skip
    add("--latency-bound-ms", type=positive, default=100.0, metavar="N",
        help="Server: latency bound for 99 of 100 queries [%(default)s]")  # fmt: skip
    add("--min-duration-s", type=positive, default=10.0, metavar="N", help="[%(default)s]")
    add("--min-queries", type=count, default=100, metavar="N",
        help="run until both minimums are reached; Server needs 459 [%(default)s]")  # fmt: skip
    usual = ", ".join(f"{scenario} {most}" for scenario, most in CONNECTIONS.items())
    add("--connections", type=count, metavar="N", help=f"maximum requests in flight [{usual}]")
    add("--log-dir", type=Path, default=Path(__file__).with_name("logs"), metavar="DIR",
        help="folder for LoadGen's logs [%(default)s]")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the report as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Runs the parts, each in a process of its own: one that loses its device costs no other."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_check.context import Context, has_gpu
from gpu_check.report import Part, render
from service.bench.machine import describe_machine
from service.engine.builds import prepare_runtime
from service.engine.nvidia import gpu_name

PARTS = {
    "attest": "provider, golden cases in fp32, TF32 and fp16, CUDA graphs against plain runs",
    "sizes": "alternating against repeated batch sizes, the engine against a bare loop",
    "serve": "answers per second with 1, 8, 64 and 256 clients, then with a simulated engine",
    "loss": "an unrecoverable CUDA error, provoked in a child server",
    "memory": "memory before and after 40 s of mixed batch sizes",
    "mixed": "two models at once",
    "train": "a few steps in mixed precision",
}
PART_S = 60.0
MODELS = Path(__file__).parents[1] / "models"
_ROOT = Path(__file__).parents[2]
_RESULT = "GPU-CHECK-RESULT "
_READ_S = 5.0
_INTERRUPTED = 130  # 128 and the signal's number, as a shell has it


def main(argv: Sequence[str] | None = None) -> int:
    """Do as the command line says; return 1 if anything fell short."""
    options = _parser().parse_args(argv)
    if options.dry_run:
        for name, what in PARTS.items():
            print(f"{name:8} {what}")
        return 0
    prepare_runtime()
    context = Context(options.models, has_gpu(), 0.1 if options.quick else 1.0)
    if options.part:
        _end_with_parent()
        print(_RESULT + json.dumps(_run_part(options.part, context).as_json()))
        return 0
    try:
        for path in (options.json, options.output):
            if path is not None:
                path.open("a").close()  # told before minutes of work, not after
        _make_models(context)
    except OSError as error:
        print(f"gpu-check: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    parts, interrupted = _all_parts(options)
    machine = _machine(argv)
    report = render(machine, parts)
    print(report)
    if options.output is not None:
        options.output.write_text(report, encoding="utf-8")
    if options.json is not None:
        whole = {"machine": machine, "parts": [part.as_json() for part in parts]}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return _INTERRUPTED if interrupted else int(any(part.fell_short for part in parts))


def _all_parts(options: argparse.Namespace) -> tuple[list[Part], bool]:
    """Run what is asked for; return what was done, and whether Ctrl-C or SIGTERM ended it."""
    parts: list[Part] = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for name in options.only or PARTS:
            print(f"gpu-check: {name} ...", file=sys.stderr)
            parts.append(_in_a_process(name, options))
    except KeyboardInterrupt:
        return parts, True
    finally:
        signal.signal(signal.SIGTERM, before)
    return parts, False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu-check",
        description="Verify and measure the service on a machine with a GPU, and write a report in "
        "Markdown. The exit status is 1 if any target is missed. Without a GPU, only the "
        "checks that need none are run.",
    )
    add = parser.add_argument
    add("--only", action="append", choices=PARTS, metavar="PART",
        help=f"run only this part; may be repeated ({', '.join(PARTS)})")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write all results as JSON")
    add("--output", type=Path, metavar="FILE", help="also write the report to a file")
    add("--models", type=Path, default=MODELS, metavar="FOLDER",
        help="folder of the model files, created if missing [%(default)s]")  # fmt: skip
    add("--quick", action="store_true",
        help="measure for a tenth of the time, to check that everything runs")  # fmt: skip
    add("--dry-run", action="store_true", help="list the parts and exit")
    add("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser


def _run_part(name: str, context: Context) -> Part:
    part = Part(name)
    started = time.perf_counter()
    try:
        importlib.import_module(f"gpu_check.{name}").run(context, part)
    except Exception as error:  # noqa: BLE001 - it is this part's result
        part.error = f"{type(error).__name__}: {error}"
        part.details["traceback"] = traceback.format_exc()
    part.seconds = time.perf_counter() - started
    return part


def _in_a_process(name: str, options: argparse.Namespace) -> Part:
    command = [sys.executable, str(_ROOT / "scripts/gpu-check"), "--part", name,
               "--models", str(options.models)]  # fmt: skip
    if options.quick:
        command.append("--quick")
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # with all that it starts, a group that can be ended together
    ) as process:
        try:
            out, err = _output_of(process)
        except subprocess.TimeoutExpired:
            return Part(name, seconds=PART_S, error=f"it took longer than {PART_S:.0f} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for line in out.splitlines():
        if line.startswith(_RESULT):
            return Part.from_json(json.loads(line.removeprefix(_RESULT)))
    tail = " ".join(err.split())[-500:]
    return Part(
        name,
        seconds=time.perf_counter() - started,
        error=f"ended with status {process.returncode}: {tail}",
    )


def _output_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Read both outputs to their end, within `PART_S`; stdin stays open as long as this lives."""
    found: dict[str, str] = {}

    def read(name: str, pipe: Any) -> None:
        found[name] = pipe.read()

    threads = [
        threading.Thread(target=read, args=(name, pipe), daemon=True)
        for name, pipe in (("out", process.stdout), ("err", process.stderr))
    ]
    for thread in threads:
        thread.start()
    process.wait(PART_S)
    for thread in threads:
        thread.join(_READ_S)
    return found.get("out", ""), found.get("err", "")


def _end_with_parent() -> None:
    """End this part's whole group when the parent has gone: its end of stdin closes."""

    def watch() -> None:
        sys.stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _make_models(context: Context) -> None:
    """Make the model files that are not there, which takes up to a minute each; needs PyTorch."""
    missing = [name for name in context.names if not (context.folder / f"{name}.onnx").exists()]
    if not missing:
        return
    from models import RECIPES, make_model  # noqa: PLC0415 - imports PyTorch

    context.folder.mkdir(parents=True, exist_ok=True)
    for name in missing:
        print(f"gpu-check: making {name}.onnx ...", file=sys.stderr)
        make_model(name, RECIPES[name], context.folder)


def _machine(argv: Sequence[str] | None) -> dict[str, Any]:
    arguments = list(sys.argv[1:] if argv is None else argv)
    return {
        **describe_machine(),
        "gpu": gpu_name(0),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["scripts/gpu-check", *arguments]),
    }

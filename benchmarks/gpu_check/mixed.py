"""mixed: two models at once share the device, and each answers its own."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local_server import Running, load, serving

from gpu_check.context import Context, program
from gpu_check.report import Part
from gpu_check.serve import link

_MOST_P50_MS = 5.0


def run(context: Context, part: Part) -> None:
    """Load both models, first the float32 one with one client, then both at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for precision in ("fp32", "fp16"):
            link(context.model(precision), Path(folder))
            names[precision] = context.model(precision).stem
        flags = ["--models", folder, "--max-batch", "32", "--cache-dir", "none",
                 "--log-level", "warning"]  # fmt: skip
        with serving("service", [*program("resnet-serve"), "serve", *flags]) as server:
            alone = _load(context, server, names["fp32"], 1)
            with ThreadPoolExecutor(2) as threads:
                runs = {
                    precision: threads.submit(_load, context, server, name, 32)
                    for precision, name in names.items()
                }
                together = {precision: run.result() for precision, run in runs.items()}
    p50 = alone["latency_ms"]["p50"]
    if context.gpu:
        part.at_most("fp32, one client, p50", p50, _MOST_P50_MS, " ms")
    else:
        part.note("fp32, one client, p50", f"{p50:.1f} ms")
    for precision, run in together.items():
        told = f"{run['throughput_per_s']:.0f} answers/s, p99 {run['latency_ms']['p99']:.1f} ms"
        part.check(
            f"{precision} beside the other, 32 clients each", told, "no errors",
            ok=bool(run["ok"]) and not run["errors"],
        )  # fmt: skip
    part.details["runs"] = {"alone": alone, **together}


def _load(context: Context, server: Running, model: str, clients: int) -> dict:
    side = context.image_side
    run = load(
        server, images=f"synthetic:{side}x{side}", image_count=32, clients=clients, model=model,
        duration=context.seconds(6), warm_up=context.seconds(1), processes=1,
    )  # fmt: skip
    kept = ("throughput_per_s", "latency_ms", "errors", "ok", "agreement", "stages_ms")
    return {key: run[key] for key in kept}

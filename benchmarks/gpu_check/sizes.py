"""sizes: no batch size is planned anew, and the engine adds little to a bare loop."""

from __future__ import annotations

import itertools
import statistics
import time
from functools import partial

from gpu_check.context import SIZES, Context, median_of, pixels_of, rate_of
from gpu_check.report import Part
from service.engine.base import Engine, probabilities
from service.engine.cuda import CudaEngine

_ROUNDS = 12
_MOST_RATIO, _LEAST_SHARE = 1.2, 0.9


def run(context: Context, part: Part) -> None:
    """Time sizes alternating and repeated; then the engine beside the bare session."""
    with context.opened("fp16" if context.gpu else "fp32") as (engine, contract):
        batches = {size: pixels_of(contract, size) for size in SIZES}
        _alternating(context, part, engine, batches)
        largest = SIZES[-1]
        seconds = context.seconds(6)
        run_one = partial(_run, engine, batches[largest])
        alone = rate_of([run_one], seconds)
        together = rate_of([run_one, run_one], seconds)
        part.note(f"engine, batches of {largest}, one caller", f"{alone:.0f} images/s")
        part.note(f"engine, batches of {largest}, two callers", f"{together:.0f} images/s")
        if not isinstance(engine, CudaEngine):
            part.skip("engine with copies against a bare loop")
            return
        for size in SIZES:
            bare = _bare_s(engine, size)
            part.note(f"bare loop, batches of {size}", f"{bare * 1000:.3f} ms")
        bare_rate = largest / _bare_s(engine, largest)
        part.note(f"bare loop, batches of {largest}", f"{bare_rate:.0f} images/s")
        part.at_least("engine with copies / bare loop", together / bare_rate, _LEAST_SHARE)
        part.details |= {"bare_images_per_s": bare_rate, "engine_images_per_s": together}
        _trace(part, engine, batches[largest])


def _alternating(context: Context, part: Part, engine: Engine, batches: dict[int, list]) -> None:
    rounds = max(3, int(_ROUNDS * context.scale))
    repeated = {size: median_of(partial(_run, engine, batches[size]), rounds) for size in SIZES}
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for size in itertools.chain(*[(*SIZES, *SIZES[-2:0:-1])] * rounds):
        started = time.perf_counter()
        _run(engine, batches[size])
        times[size].append(time.perf_counter() - started)
    for size in SIZES:
        alternating = statistics.median(times[size])
        what = f"batches of {size}: alternating / repeated"
        ratio = alternating / repeated[size]
        part.note(f"batches of {size}", f"{alternating * 1000:.2f} ms alternating")
        if context.gpu:
            part.at_most(what, ratio, _MOST_RATIO)
        else:
            part.note(what, f"{ratio:.3g}")
    part.details["milliseconds"] = {size: statistics.median(times[size]) * 1000 for size in SIZES}


def _run(engine: Engine, pixels: list) -> int:
    return len(probabilities(engine, pixels))


def _bare_s(engine: CudaEngine, size: int) -> float:
    """Time the session itself on its thread: bound buffers, no copies, no hand-over."""
    bound = engine._bound[size]
    return engine._gpu.call(lambda: median_of(bound.run, 50))


def _trace(part: Part, engine: CudaEngine, pixels: list) -> None:
    """Time the steps of one batch by themselves, to tell what copies would cost one by one."""
    bound, staging = engine._bound[len(pixels)], engine._free_stagings.get()
    try:
        steps = {
            "stack and copy to the device": median_of(partial(staging.fill, pixels), 30),
            "copy to the bound buffer": engine._gpu.call(
                lambda: median_of(partial(staging.copy_to, bound.input, len(pixels)), 30)
            ),
            "run": engine._gpu.call(lambda: median_of(bound.run, 30)),
            "copy the answers back": engine._gpu.call(
                lambda: median_of(partial(bound.output, "probabilities", len(pixels)), 30)
            ),
            "hand over to the thread": median_of(partial(engine._gpu.call, int), 200),
        }
    finally:
        engine._free_stagings.put(staging)
    part.details["steps_ms"] = {name: seconds * 1000 for name, seconds in steps.items()}
    told = ", ".join(f"{name} {seconds * 1000:.3f} ms" for name, seconds in steps.items())
    part.notes.append(f"Steps of a batch of {len(pixels)}, each alone: {told}.")

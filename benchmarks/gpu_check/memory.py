"""memory: what batches of mixed sizes leave behind."""

from __future__ import annotations

import random
import threading

import psutil

from gpu_check.context import Context, pixels_of, rate_of
from gpu_check.report import Part
from service.engine.base import probabilities
from service.engine.cuda import CudaEngine

_MOST_GROWTH = 64 * 2**20
_SEED = 11


def run(context: Context, part: Part) -> None:
    """Run batches of any size from two threads, and compare memory before and after."""
    with context.opened("fp16" if context.gpu else "fp32") as (engine, contract):
        images = pixels_of(contract, 32)
        chance, lock = random.Random(_SEED), threading.Lock()

        def batch() -> int:
            with lock:
                count = chance.randint(1, 32)
            return len(probabilities(engine, images[:count]))

        rate_of([batch, batch], context.seconds(2))  # what the first batches allocate stays
        before = _device_bytes(engine), resident_bytes()
        rate = rate_of([batch, batch], context.seconds(40))
        after = _device_bytes(engine), resident_bytes()
    part.note("batches of 1 to 32 at random, two callers", f"{rate:.0f} images/s (seed {_SEED})")
    part.at_most(
        "resident memory, growth", (after[1] - before[1]) / 2**20, _MOST_GROWTH / 2**20, " MiB"
    )
    if before[0] is None or after[0] is None:
        part.skip("GPU memory, growth")
        return
    part.note("GPU memory in use", f"{before[0] / 2**20:.0f} MiB")
    part.at_most("GPU memory, growth", (after[0] - before[0]) / 2**20, _MOST_GROWTH / 2**20, " MiB")


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return psutil.Process().memory_info().rss


def _device_bytes(engine: object) -> int | None:
    if not isinstance(engine, CudaEngine):
        return None
    gpu = engine._gpu
    gpu.call(lambda: gpu.note_memory(at_once=True))
    return gpu.memory.used if gpu.memory else None

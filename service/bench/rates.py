"""Throughput of work on threads, in images per second, without a server."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.bench.pipeline import Pipeline
from service.engine.base import probabilities

SECONDS = 0.5
"""Length of one measurement; longer if one call takes longer."""

_UNDER_WAY_S = 0.25  # until all threads are busy
_BATCHES = 6  # per runner, at least

Call = Callable[[], int]
"""Does some work and returns how many images it processed."""


def rate_of(calls: Sequence[Call]) -> float:
    """Repeat each call on its own thread for a while; return the total images per second.

    All begin together, and each thread's rate covers exactly the time of its complete calls.
    """
    rates = [0.0] * len(calls)
    barrier = threading.Barrier(len(calls))

    def repeat(index: int, call: Call) -> None:
        call()
        barrier.wait()
        started = time.perf_counter()
        images, seconds = 0, 0.0
        while seconds < SECONDS:
            images += call()
            seconds = time.perf_counter() - started
        rates[index] = images / seconds

    _on_threads([partial(repeat, i, call) for i, call in enumerate(calls)], barrier.abort)
    return sum(rates)


def decode_and_run(pipeline: Pipeline, images: Sequence[bytes], start: int) -> Call:
    """Return a call that decodes and runs the next image."""
    order = itertools.cycle([*images[start:], *images[:start]])
    return lambda: len(probabilities(pipeline.engine, [pipeline.decode(next(order))]))


def staged_rate(
    pipeline: Pipeline, images: Sequence[bytes], decoders: int, runners: int, batch: int
) -> float:
    """Decode on some threads and run batches on others; return the images per second.

    A runner takes what is decoded, up to `batch`, and never waits for a batch to fill. Its rate is
    measured between the ends of two of its batches, so that no batch counts partly.
    """
    # Two batches per runner: decoders that get ahead wait and leave the cores to runners.
    decoded: queue.Queue[NDArray[np.uint8]] = queue.Queue(2 * runners * batch)
    order, lock = itertools.cycle(images), threading.Lock()
    over = threading.Event()
    ends: list[list[tuple[float, int]]] = [[] for _ in range(runners)]  # when batches ended, images

    def keep_decoding() -> None:
        while not over.is_set():
            with lock:
                image = next(order)
            pixels = pipeline.decode(image)
            while not over.is_set():
                try:
                    decoded.put(pixels, timeout=0.05)
                    break
                except queue.Full:
                    continue

    def keep_running(index: int) -> None:
        while not over.is_set():
            if taken := _take(decoded, batch):
                probabilities(pipeline.engine, taken)
                ends[index].append((time.perf_counter(), len(taken)))

    def watch() -> None:
        started = time.perf_counter()
        while not over.is_set() and (
            time.perf_counter() - started < SECONDS + _UNDER_WAY_S
            or sum(map(len, ends)) < _BATCHES * runners
        ):
            time.sleep(SECONDS / 20)
        over.set()

    runs = [partial(keep_running, index) for index in range(runners)]
    begun = time.perf_counter()
    _on_threads([*[keep_decoding] * decoders, *runs, watch], over.set)
    return sum(rate_between([end for end in own if end[0] >= begun + _UNDER_WAY_S]) for own in ends)


def rate_between(ends: Sequence[tuple[float, int]]) -> float:
    """Return a runner's images per second from the end of its first batch to that of its last."""
    images = sum(images for _, images in ends[1:])
    return images / (ends[-1][0] - ends[0][0]) if images else 0.0


def _take(decoded: queue.Queue[NDArray[np.uint8]], batch: int) -> list[NDArray[np.uint8]]:
    taken: list[NDArray[np.uint8]] = []
    try:
        taken.append(decoded.get(timeout=0.05))
        while len(taken) < batch:
            taken.append(decoded.get_nowait())
    except queue.Empty:
        pass
    return taken


def _on_threads(works: Sequence[Callable[[], None]], give_up: Callable[[], None]) -> None:
    """Run each on its own thread and wait for all; if one fails, call `give_up` to end the rest."""
    errors: list[Exception] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except threading.BrokenBarrierError:
            pass  # another thread has failed
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
            give_up()

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        give_up()  # otherwise waiting threads would keep the program from exiting
        raise
    if errors:
        raise errors[0]

"""Images a second of work on threads, without a server."""

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
"""Length of one measurement; longer where one call takes longer."""

_UNDER_WAY_S = 0.25  # until the threads are
_BATCHES = 6  # of a runner

Call = Callable[[], int]
"""Does some work; gives how many images it did."""


def rate_of(calls: Sequence[Call]) -> float:
    """Repeat each call on a thread of its own for a while; gives images a second of all.

    All begin together, and each thread's rate is over the time of its own whole calls.
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
    """Return a call that decodes and runs the next image, one at a time."""
    order = itertools.cycle([*images[start:], *images[:start]])
    return lambda: len(probabilities(pipeline.engine, [pipeline.decode(next(order))]))


def staged_rate(
    pipeline: Pipeline, images: Sequence[bytes], decoders: int, runners: int, batch: int
) -> float:
    """Decode on some threads and run batches on others; gives images a second.

    A runner takes what is decoded, up to `batch`, and never waits for a batch to fill up. Its rate
    is from the end of one of its batches to the end of another, so that none is counted in part.
    """
    # As many as all runners can hold twice: decoders that are ahead stop, and leave the cores.
    decoded: queue.Queue[NDArray[np.uint8]] = queue.Queue(2 * runners * batch)
    order, lock = itertools.cycle(images), threading.Lock()
    over = threading.Event()
    ends: list[list[tuple[float, int]]] = [[] for _ in range(runners)]  # of batches; images in each

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
    """Return images a second from the first to the last of a runner's ends of batches."""
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
    """Run each on a thread and wait for all; if one fails, `give_up` ends the others."""
    errors: list[Exception] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except threading.BrokenBarrierError:
            pass  # another one has failed
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
        give_up()  # the program could not end while a thread waits for the others
        raise
    if errors:
        raise errors[0]

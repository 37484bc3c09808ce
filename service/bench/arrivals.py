"""Arrival times of an open loop's requests: seconds from the start, float64, ascending."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bench.errors import TraceFileError
from service.bench.options import BURST_FACTOR, BURST_LENGTH_S, BURST_PERIOD_S

Arrivals = NDArray[np.float64]


def poisson(rate: float, seconds: float, seed: int) -> Arrivals:
    """Return the arrivals of a Poisson process with `rate` per second."""
    random = np.random.default_rng(seed)
    times = np.empty(0)
    last = 0.0
    while last < seconds:
        # Slightly more than are likely to be needed; if they are too few, another round follows.
        gaps = random.exponential(1 / rate, int((seconds - last) * rate * 1.1) + 16)
        times = np.concatenate([times, last + np.cumsum(gaps)])
        last = float(times[-1])
    return times[times < seconds]


def burst(rate: float, seconds: float, seed: int) -> Arrivals:
    """Return arrivals whose rate is 3 times the mean `rate` for the first second of every five.

    Between bursts the rate is half the mean, which keeps the mean. A Poisson process with a varying
    rate is one of rate 1 with its time axis warped by the inverse of the expected count.
    """
    rest = rate * (BURST_PERIOD_S - BURST_FACTOR * BURST_LENGTH_S) / (
        BURST_PERIOD_S - BURST_LENGTH_S
    )  # fmt: skip
    starts = np.arange(math.ceil(seconds / BURST_PERIOD_S) + 1) * BURST_PERIOD_S
    at = np.sort(np.concatenate([starts, starts + BURST_LENGTH_S]))
    rates = np.tile([rate * BURST_FACTOR, rest], len(starts))[:-1]
    expected = np.concatenate([[0.0], np.cumsum(np.diff(at) * rates)])
    horizon = float(np.interp(seconds, at, expected))
    times: Arrivals = np.interp(poisson(1.0, horizon, seed), expected, at)
    return times


def read_trace(path: Path) -> Arrivals:
    """Read one arrival time in seconds per line, ignoring blank lines and those starting with `#`.

    Raises `TraceFileError`, naming the line, if a time is not a number, negative or out of order.
    """
    times: list[float] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not a text file"
        raise TraceFileError(f"--trace {path}: {reason}") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            time = float(text)
        except ValueError:
            time = math.nan
        if not (math.isfinite(time) and time >= 0):
            raise TraceFileError(
                f"--trace {path}, line {number}: {text!r} is not a time in seconds"
            )
        if times and time < times[-1]:
            raise TraceFileError(
                f"--trace {path}, line {number}: {text} comes after {times[-1]:g}; sort the lines"
            )
        times.append(time)
    if not times:
        raise TraceFileError(f"--trace {path}: has no arrival times")
    return np.array(times)

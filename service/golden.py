"""Golden cases: images with known answers that a model file carries and must reproduce.

Pixels come from an integer formula, never from a library's random generator, whose streams change
between versions. One case is a small encoded photo, since most wrong answers come from
preprocessing.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.contract import GoldenPattern, GoldenPhoto, ModelContract
from service.engine.base import Engine, probabilities
from service.preprocess.decode import DecodePolicy, decode

# A golden photo is decoded exactly, whatever the service's settings are.
_EXACT = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)

PHOTO_DRIFT = 0.05
"""How far a golden photo's probabilities may be off when its pixels differ from the exporter's.

Another release of a JPEG decoder may round differently; that changes a probability by hundredths,
a wrong resize or colour order by far more.
"""


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """The outcome of a check; with any `failures` the model must not be served.

    `tolerance` is how far probabilities may be off.
    """

    max_abs_diff: float
    tolerance: float
    failures: tuple[str, ...]
    warnings: tuple[str, ...]


def golden_pattern(seed: int, height: int, width: int | None = None) -> NDArray[np.uint8]:
    """Return uint8 [height, width, 3] pixels that depend only on `seed` and the size.

    Without a `width`, they are a square.

    They are overlapping triangle waves of several periods, so that a network sees edges, ramps and
    texture.
    """
    width = height if width is None else width
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    channels = []
    for channel in range(3):
        key = seed * 3 + channel + 1
        value = np.zeros((height, width), np.int64)
        for wave, weight in ((1, 4), (2, 2), (3, 1)):
            a, b = (key * 7 * wave) % 23 - 11, (key * 13 * wave) % 19 - 9
            phase = (a * x + b * y) * 64 // max(height, width) + key * 37 * wave
            value += weight * np.abs((phase * wave) % 510 - 255)
        channels.append(value // 7)
    return np.stack(channels, axis=-1).astype(np.uint8)


def pixels_digest(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of the pixels in row-major order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def golden_pixels(
    case: GoldenPattern | GoldenPhoto, contract: ModelContract
) -> tuple[NDArray[np.uint8], bool]:
    """Return a case's uint8 [H, W, 3] pixels, and whether they equal the exporter's."""
    if case.kind == "pattern":
        return golden_pattern(case.seed, *contract.preprocessing.input_size), True
    decoded = decode(base64.b64decode(case.data_base64), contract.preprocessing, _EXACT)
    return decoded.pixels, pixels_digest(decoded.pixels) == case.pixels_sha256


def tolerance_in_force(engine: Engine, contract: ModelContract) -> float:
    """Return how far a probability may be off on this engine's provider, with its settings."""
    limit = contract.tolerance(engine.provider.tolerance_key)
    allowed = (contract.allowed or {}).get(engine.rounds_to) if engine.rounds_to else None
    return max(limit, allowed.tolerance) if allowed else limit


def check_golden(engine: Engine, contract: ModelContract, batch: int) -> GoldenReport:
    """Run the golden cases, repeated to fill batches of `batch`, and compare the answers."""
    limit = tolerance_in_force(engine, contract)
    worst, failures, warnings = 0.0, [], []
    cases = [(case, *golden_pixels(case, contract)) for case in contract.golden]
    size = max(batch, 1)
    for start in range(0, max(len(cases), size), size):
        chosen = [cases[(start + i) % len(cases)] for i in range(size)]
        answers = probabilities(engine, [pixels for _, pixels, _ in chosen])
        for (case, _, same_pixels), answer in zip(chosen, answers, strict=True):
            diff = float(np.max(np.abs(answer - np.asarray(case.probabilities, np.float32))))
            worst = float(np.maximum(worst, diff))  # `max` would drop a NaN
            allowed = limit if same_pixels else max(limit, PHOTO_DRIFT)
            # Written so that NaN fails.
            if not diff <= allowed:
                failures.append(_disagreement(case, diff, allowed, same_pixels))
            elif not same_pixels:
                warnings.append(
                    "the golden photo is decoded or resized to different pixels than at export "
                    f"(probabilities differ by {diff:.2g}); is it another version of Pillow?"
                )
    return GoldenReport(
        worst, limit, tuple(dict.fromkeys(failures)), tuple(dict.fromkeys(warnings))
    )


def _disagreement(
    case: GoldenPattern | GoldenPhoto, diff: float, allowed: float, same_pixels: bool
) -> str:
    name = f"golden pattern {case.seed}" if case.kind == "pattern" else "golden photo"
    blame = "" if same_pixels else "; decoding or resizing gives different pixels than at export"
    return f"{name} differs by {diff:.3g}, {allowed:.3g} is allowed{blame}"

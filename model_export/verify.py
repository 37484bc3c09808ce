"""Compares a model file in ONNX Runtime with PyTorch, and with its own golden cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_export.errors import ParityError
from model_export.options import Storage
from model_export.reference import Outputs, Reference, References
from service.contract import INPUT_NAME, PROBABILITIES, ModelContract, Parity
from service.engine.onnx import load_engine
from service.engine.providers import CPU, EngineOptions, PrecisionChoice
from service.golden import GoldenReport, check_golden, golden_pattern


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a file may be off: in a probability, and in other outputs relative to their maximum.

    The other outputs matter because probabilities are small with many classes, so a wrong graph
    could pass. None ignores the other outputs.
    """

    probability: float
    relative: float | None

    def of(self, output: str, reference: NDArray[np.float32]) -> float:
        """Return the largest allowed difference for an output with these reference values."""
        if output == PROBABILITIES:
            return self.probability
        return np.inf if self.relative is None else self.relative * float(np.abs(reference).max())


SAME_WEIGHTS = Limits(probability=1e-4, relative=1e-3)
"""Limits for a file against PyTorch with the same weights.

They sum in float32 in different orders, which changes a probability by 1e-7 to 1e-5, depending on
the network and the CPU (AVX2, AVX-512, ARM). A mistake (swapped colours, a wrong mean, a missing
normalisation) changes it by 1e-2 or more.
"""

ROUNDED_WEIGHTS = Limits(probability=2e-2, relative=None)
"""Limits for a file with float16 weights against the trained float32 ones.

Rounding changes each weight by up to 2^-11 of its value. Probabilities change by 2e-4 (the slim
ResNet-50) to 1e-3 in trained networks, and by up to 1e-2 in random ones; beyond that, the weights
don't tolerate rounding. The graph itself is held to `SAME_WEIGHTS` with the rounded weights.
"""

UNLIMITED = Limits(probability=1, relative=None)
"""Limits for a file of lower precision, whose labels are compared with float32's instead."""

TRAINED_LIMITS: dict[Storage, Limits] = {"fp32": SAME_WEIGHTS, "fp16": ROUNDED_WEIGHTS}


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Return the batch sizes to compare at: 1, 2, 5 and the largest."""
    return tuple(sorted({size for size in (1, 2, 5) if size < largest} | {largest}))


def measure_parity(
    path: Path,
    references: References,
    storage: Storage,
    *,
    size: tuple[int, int],
    largest_batch: int,
) -> Parity:
    """Compare a file with PyTorch, using the file's weights and the trained ones.

    Returns the difference from the trained network. Raises `ParityError`.
    """
    if references.exact is not references.trained:
        compare(path, references.exact, SAME_WEIGHTS, size=size, largest_batch=largest_batch)
    limits = TRAINED_LIMITS[storage]
    return compare(path, references.trained, limits, size=size, largest_batch=largest_batch)


def compare(
    path: Path, reference: Reference, limits: Limits, *, size: tuple[int, int], largest_batch: int,
    whose: str = "PyTorch",
) -> Parity:  # fmt: skip
    """Run generated images of that `size` (height, width) through a file and a reference.

    Every output is compared, at each of `batch_sizes`. Raises `ParityError`, which says `whose` the
    reference is, if the file exceeds the limits or the reference's answer is not finite. A label
    that changes within the limits (a near tie) is counted in the result but is not an error.
    """
    session = onnxruntime.InferenceSession(str(path), providers=[CPU.runtime_name])
    names = [output.name for output in session.get_outputs()]
    worst, same_label, seed = 0.0, 0, 0
    sizes = batch_sizes(largest_batch)
    for batch in sizes:
        images = np.stack([golden_pattern(seed + index, *size) for index in range(batch)])
        seed += batch
        expected = reference(images)
        got = dict(zip(names, session.run(names, {INPUT_NAME: images}), strict=True))
        worst = max(worst, _check(got, expected, limits, batch, whose))
        labels = (outputs[PROBABILITIES].argmax(axis=1) for outputs in (got, expected))
        same_label += int(np.equal(*labels).sum())
    return Parity(
        max_abs_diff=worst, top1_agreement=same_label / seed, images=seed, batch_sizes=sizes
    )


def answers_of(path: Path) -> Reference:
    """Return a file's own answers on the CPU as a reference."""
    session = onnxruntime.InferenceSession(str(path), providers=[CPU.runtime_name])

    def outputs(images: NDArray[np.uint8]) -> Outputs:
        return {PROBABILITIES: session.run([PROBABILITIES], {INPUT_NAME: images})[0]}

    return outputs


def check_answers(
    path: Path,
    contract: ModelContract,
    provider: str = CPU.name,
    precision: PrecisionChoice = "exact",
) -> GoldenReport:
    """Replay the golden cases as the service will. Raises `ParityError` if one disagrees."""
    engine = load_engine(path, provider=provider, options=EngineOptions(precision=precision))
    try:
        engine.prepare((1,))
        report = check_golden(engine, contract, batch=1)
    finally:
        engine.close()
    if report.failures:
        raise ParityError(
            f"the file's answers differ from its golden cases: {'; '.join(report.failures)}"
        )
    return report


def _check(got: Outputs, expected: Outputs, limits: Limits, batch: int, whose: str) -> float:
    """Return the largest difference in a probability, if every output is within the limits."""
    differences = {}
    for name, reference in expected.items():
        if not np.isfinite(reference).all():
            raise ParityError(
                f"{whose}'s own {name} output is not finite for an ordinary image, so nothing can "
                "be compared; are these trained weights?"
            )
        if got[name].shape != reference.shape:
            raise ParityError(
                f"{name} has shape {got[name].shape} in the file but {reference.shape} in {whose}"
            )
        differences[name] = float(np.max(np.abs(got[name] - reference)))
        limit = limits.of(name, reference)
        # Written so that NaN fails.
        if not differences[name] <= limit:
            raise ParityError(
                f"the file's {name} differs from {whose}'s by {differences[name]:.3g} at batch "
                f"size {batch}; {limit:.3g} is allowed"
            )
    return differences[PROBABILITIES]

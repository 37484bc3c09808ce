"""How far apart two model files' answers to the same images are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.errors import AgreementError
from service.contract import Agreement
from service.engine.base import probabilities
from service.engine.onnx import load_engine
from service.engine.providers import CPU


def measure_agreement(
    first: Path, second: Path, batches: Iterable[NDArray[np.uint8]], source: str
) -> Agreement:
    """Run batches of uint8 [n, H, W, 3] images through both files on the CPU and compare."""
    one, other = (load_engine(path, provider=CPU.name) for path in (first, second))
    try:
        return agreement_of(
            ((probabilities(one, [*batch]), probabilities(other, [*batch])) for batch in batches),
            source,
        )
    finally:
        one.close()
        other.close()


def agreement_of(
    answers: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]], source: str
) -> Agreement:
    """Return the agreement of pairs of probabilities [n, C] for the same images."""
    images, same, total, worst = 0, 0, 0.0, 0.0
    for one, other in answers:
        if not np.isfinite(other).all():
            raise AgreementError("an image's answer is not finite: the weights need float32")
        difference = np.abs(one - other)
        images += len(one)
        same += int(np.equal(one.argmax(axis=1), other.argmax(axis=1)).sum())
        total += float(difference.mean(axis=1).sum())
        worst = max(worst, float(difference.max()))
    return Agreement(
        source=source,
        images=images,
        top1=same / images,
        mean_abs_diff=total / images,
        max_abs_diff=worst,
    )


def check_agreement(agreement: Agreement, least: float) -> None:
    """Raise `AgreementError` if less than a fraction `least` of labels agree with float32's."""
    if agreement.top1 < least:
        raise AgreementError(
            f"only {agreement.top1:.2%} of {agreement.images} images ({agreement.source}) get the "
            f"float32 file's label, less than {least:.2%} (--min-agreement); more or other "
            "calibration images (--images) may help"
        )

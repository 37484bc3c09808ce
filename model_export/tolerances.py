"""How far golden cases may be off, by provider and precision."""

from __future__ import annotations

from collections.abc import Mapping

from model_export.verify import SAME_WEIGHTS
from service.contract import REFERENCE_PROVIDER, Precision

_LIMITS: Mapping[str, Mapping[Precision, float]] = {
    REFERENCE_PROVIDER: {"fp32": SAME_WEIGHTS.probability, "fp16": 5e-3, "int8": 8e-2},
    "cuda": {"fp32": 1e-3, "fp16": 3e-2, "int8": 8e-2},
}
"""The golden answers of float32 files are PyTorch's with exactly the file's weights.

Those of lower precision are the file's own on the exporter's CPU. GPUs use other algorithms for
convolutions than CPUs, such as Winograd. Float16 is computed in float32 on CPUs without support for
it, and as float16 on GPUs. With integers, a value that is rounded the other way changes an
activation by a whole step.
"""


def tolerances_at(precision: Precision) -> dict[str, dict[Precision, float]]:
    """Return a contract's tolerances for a file with that precision."""
    return {provider: {precision: limits[precision]} for provider, limits in _LIMITS.items()}

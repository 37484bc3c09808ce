"""How far golden cases may be off, by the provider that computes them and the file's precision."""

from __future__ import annotations

from collections.abc import Mapping

from model_export.verify import SAME_WEIGHTS
from service.contract import REFERENCE_PROVIDER, Precision

_LIMITS: Mapping[str, Mapping[Precision, float]] = {
    REFERENCE_PROVIDER: {"fp32": SAME_WEIGHTS.probability, "fp16": 5e-3, "int8": 8e-2},
    "cuda": {"fp32": 1e-3, "fp16": 3e-2, "int8": 8e-2},
}
"""The answers of float32 files are PyTorch's with the very weights of the file.

Those of lower precision are the file's own on the exporter's CPU. GPUs choose other algorithms
(Winograd among them) for a convolution than CPUs. Float16 is computed in float32 on CPUs that lack
it, and in itself on GPUs. Of integers, a rounding that falls the other way moves an activation by a
whole step.
"""


def tolerances_at(precision: Precision) -> dict[str, dict[Precision, float]]:
    """Return a contract's tolerances for a file of that precision."""
    return {provider: {precision: limits[precision]} for provider, limits in _LIMITS.items()}

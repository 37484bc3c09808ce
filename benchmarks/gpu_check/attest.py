"""attest: the provider is the one asked for, and its answers are the model's."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_check.context import SIZES, Context, pixels_of
from gpu_check.report import Part
from service.contract import PROBABILITIES, ModelContract
from service.engine.base import Engine, probabilities
from service.engine.cpu import CpuEngine
from service.engine.cuda import CudaEngine, GpuModel
from service.engine.gpu import Gpu
from service.engine.providers import PrecisionChoice
from service.golden import check_golden, tolerance_in_force

_KINDS: dict[str, tuple[str, PrecisionChoice]] = {
    "fp32": ("fp32", "exact"),
    "fp32 in TF32": ("fp32", "tf32"),
    "fp16": ("fp16", "exact"),
}

_TF32_DRIFT = 0.02
"""How far probabilities may be off in TF32, which keeps 10 bits of mantissa, as float16 does."""


def run(context: Context, part: Part) -> None:
    """Check the golden cases in each precision, and graphs against plain runs."""
    wanted = context.provider
    for title, (precision, computed) in _KINDS.items():
        rounded = computed != "exact"
        if rounded and not context.gpu:
            part.skip(f"{title}: golden cases")
            continue
        with context.opened(precision, computed=computed) as (engine, contract):
            found = engine.provider
            part.check(f"{title}: provider", found.name, wanted.name, ok=found is wanted)
            if context.gpu:
                graphs = engine.attested["cuda_graphs"]
                part.check(f"{title}: CUDA graphs", str(graphs), "True", ok=graphs is True)
                part.note(f"{title}: taken", str(dict(engine.attested)))
            reports = [check_golden(engine, contract, size) for size in SIZES]
            worst = max(report.max_abs_diff for report in reports)
            part.at_most(
                f"{title}: golden cases, largest difference", worst,
                max(tolerance_in_force(engine, contract), _TF32_DRIFT * rounded),
            )  # fmt: skip
            if context.gpu:
                with context.opened(precision, computed=computed, graphs=False) as (plain, _):
                    _compare(part, f"{title}: graphs against plain runs", engine, plain, contract)
    _bound_on_cpu(context, part)


def _bound_on_cpu(context: Context, part: Part) -> None:
    """Run the code that binds buffers on the CPU provider, against a plain session's answers."""
    with Context(context.folder, gpu=False).opened("fp32") as (plain, contract):
        assert isinstance(plain, CpuEngine)  # noqa: S101
        session, size = plain._session, contract.preprocessing.input_size
        gpu = Gpu(0, lambda _: None)
        bound = CudaEngine(
            gpu,
            GpuModel(
                name=contract.name,
                metadata={},
                classes=None,
                input_shape=(None, *size),
                image_size=size,
                outputs=(PROBABILITIES,),
                layout="NCHW",
                rounds_to=None,
            ),
            lambda _: session,
            graphs=False,
            batches=2,
            device="cpu",
            owns_gpu=True,
        )
        try:
            bound.prepare(SIZES)
            _compare(part, "bound buffers on the CPU against plain runs", bound, plain, contract)
        finally:
            bound.close()


def _compare(part: Part, what: str, one: Engine, other: Engine, contract: ModelContract) -> None:
    """Compare answers to the bit, at each size and in between, where both pad alike."""
    same = []
    for count in (1, 5, 8, 30, 32):
        pixels = pixels_of(contract, count, seed=count)
        padded = next(size for size in SIZES if size >= count)
        fill = pixels + [np.zeros_like(pixels[0])] * (padded - count)
        ask = partial(probabilities, pixels=fill)
        same.append(bool(np.array_equal(ask(one)[:count], ask(other)[:count])))
    part.check(what, "equal" if all(same) else f"differ: {same}", "equal to the bit", ok=all(same))

"""`resnet-export allow`: allows a faster precision for a float32 file, by how closely it agrees.

The device rounds while it computes; the file's graph and weights do not change.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray

from model_export.agreement import agreement_of
from model_export.describe import describe_allowed
from model_export.errors import AgreementError, OptionsError
from model_export.images import open_images, spread
from model_export.model_file import read_model, rewrite_contract
from model_export.options import AllowOptions
from model_export.pixels import BATCH, batches
from service.contract import Agreement, Allowed, Faster, ModelContract
from service.engine.base import Engine, probabilities
from service.engine.onnx import load_engine
from service.engine.providers import PROVIDERS, EngineOptions, Provider
from service.golden import check_golden

_MARGIN = 2.0
"""The tolerance relative to the largest difference seen: another CPU sums in another order, and
other images may differ more."""

_MOST = 0.5
"""The largest tolerance: a larger error could turn any label into any other."""


def allow_command(options: AllowOptions) -> None:
    """Measure the agreement as the options say, print it, and write it to the file.

    Raises `OptionsError` if the precision does not apply to the file or this machine does not
    support it, and `AgreementError` if it agrees too little; then the file is unchanged.
    """
    _, contract = read_model(options.file)
    if contract.precision != "fp32":
        raise OptionsError(
            f"{options.file}: its precision is {contract.precision}; a faster one can only be "
            "allowed for float32 files"
        )
    provider = provider_with(options.precision)
    allowed = measure(options, contract, provider)
    # Files first: the reader of the output may stop, as `head` does.
    if allowed.lower_bound >= options.min_agreement:
        entries = {**(contract.allowed or {}), options.precision: allowed}
        rewrite_contract(options.file, contract.model_copy(update={"allowed": entries}))
    said = f"{options.file}: {describe_allowed(options.precision, allowed)}"
    if allowed.lower_bound < options.min_agreement:
        raise AgreementError(
            f"{said}; not allowed, since at least {options.min_agreement:.2%} is required "
            "(--min-agreement); more images tighten the bound"
        )
    sys.stdout.write(f"{said}; probabilities may be off by {allowed.tolerance:g}\n")


def provider_with(precision: Faster) -> Provider:
    """Return the provider that supports a precision on this machine.

    Raises `OptionsError` with what each possible provider lacks.
    """
    lacking = []
    for provider in PROVIDERS:
        if precision not in provider.may_round_to:
            continue
        lack = provider.lack()
        if lack is None and precision in provider.faster():
            return provider
        lacking.append(lack or f"{provider.device_name(0)} does not support it")
    raise OptionsError(
        f"--precision {precision}: can't be measured on this machine: {'; '.join(lacking)}"
    )


def measure(options: AllowOptions, contract: ModelContract, provider: Provider) -> Allowed:
    """Run the images and golden cases in float32 and in the faster precision.

    Raises `AgreementError` if all answers are identical, since the device then does not use the
    precision, whatever it claims; or if the golden cases would fail when served.
    """
    with ExitStack() as stack:
        exact, fast = (
            stack.enter_context(
                closing(
                    load_engine(
                        options.file,
                        provider=provider.name,
                        options=EngineOptions(precision=precision),
                    )
                )
            )
            for precision in ("exact", options.precision)
        )
        exact.prepare((BATCH,))
        fast.prepare((BATCH,))
        agreement = _agreement(options, contract, exact, fast)
        golden = check_golden(fast, contract, 1).max_abs_diff
        if fast.rounds_to != options.precision or agreement.max_abs_diff == 0:
            raise AgreementError(
                f"{provider.device_name(0)} computes this file in float32 although "
                f"{options.precision} was requested, so there is nothing to measure"
            )
        worst = max(agreement.max_abs_diff, golden)
        tolerance = max(float(f"{_MARGIN * worst:.2g}"), contract.loosest_tolerance)
        tolerance = min(_MOST, tolerance)
        # Written so that NaN fails.
        if not golden <= tolerance:
            raise AgreementError(
                f"{options.file}: a golden case differs by {golden:.3g} in {options.precision}; "
                f"with more than {tolerance:g} the file would not serve"
            )
    return Allowed(
        source=agreement.source,
        images=agreement.images,
        same_labels=round(agreement.top1 * agreement.images),
        mean_abs_diff=agreement.mean_abs_diff,
        max_abs_diff=agreement.max_abs_diff,
        tolerance=tolerance,
        provider=provider.tolerance_key,
        device=provider.device_name(0) or "unknown",
        tools=dict([provider.version().rsplit(" ", 1)]),
    )


def _agreement(
    options: AllowOptions, contract: ModelContract, exact: Engine, fast: Engine
) -> Agreement:
    def answers() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        names = spread(images.names, options.limit)
        for batch in batches(images, names, contract.preprocessing, "measuring"):
            yield probabilities(exact, [*batch]), probabilities(fast, [*batch])

    with open_images(options.images) as images:
        return agreement_of(answers(), options.data_set)

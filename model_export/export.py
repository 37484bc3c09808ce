"""Exports a trained network to a verified model file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx
import onnxruntime
from torch import nn

from model_export.files import beside
from model_export.golden_cases import golden_cases
from model_export.graph import optional_outputs, prepare, to_onnx
from model_export.model_file import attach_contract
from model_export.options import Storage
from model_export.precision import Lowering, lower
from model_export.progress import step
from model_export.reference import references
from model_export.tolerances import tolerances_at
from model_export.verify import (
    UNLIMITED,
    answers_of,
    batch_sizes,
    check_answers,
    compare,
    measure_parity,
)
from service import __version__
from service.contract import Label, ModelContract, Preprocessing, Weights
from service.files import replacing


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported: the parts of the contract that are given, not measured."""

    name: str
    architecture: str
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    weights: Weights
    storage: Storage


def export(
    network: nn.Module,
    subject: Subject,
    output: Path,
    *,
    largest_batch: int,
    lowering: Lowering | None = None,
) -> ModelContract:
    """Write the model file to `output` once it has been verified, replacing an older one.

    With `lowering` it has a lower precision than float32 and is made from a verified, temporary
    float32 file.

    Raises `GraphError`, `ParityError`, `AgreementError`, `ImagesError` or `OSError`; then `output`
    is unchanged.
    """
    preprocessing, storage = subject.preprocessing, subject.storage
    sizes = batch_sizes(largest_batch)
    with step("writing the graph"):
        served = prepare(network, preprocessing, storage)
        pytorch = references(network, served, preprocessing, storage)
        model = to_onnx(served, preprocessing.input_size, storage)
    with replacing(output) as file, beside(file, "fp32") as full:
        path = file if lowering is None else full
        onnx.save(model, path)
        with step(f"comparing with PyTorch at batch sizes {', '.join(map(str, sizes))}"):
            parity = measure_parity(
                path, pytorch, storage, size=preprocessing.input_size, largest_batch=largest_batch
            )
        contract = ModelContract(
            name=subject.name,
            architecture=subject.architecture,
            preprocessing=preprocessing,
            labels=subject.labels,
            optional_outputs=optional_outputs(network),
            storage=storage,
            weights=subject.weights,
            tools=tools("torch", "onnx", "onnxscript", "pillow"),
            parity=parity,
            tolerances=tolerances_at("fp32"),
            golden=golden_cases(pytorch.exact, preprocessing),
        )
        if lowering is not None:
            with step(
                f"converting to {lowering.precision} and comparing with float32",
                has_bar=lowering.images is not None,
            ):
                model, agreement = lower(network, full, file, preprocessing, lowering)
            contract = contract.model_copy(
                update={
                    "precision": lowering.precision,
                    "storage": lowering.precision,
                    "agreement": agreement,
                    "tolerances": tolerances_at(lowering.precision),
                    "parity": compare(
                        file, pytorch.trained, UNLIMITED,
                        size=preprocessing.input_size, largest_batch=largest_batch,
                    ),
                    "golden": golden_cases(answers_of(file), preprocessing),
                }
            )  # fmt: skip
        attach_contract(model, contract)
        onnx.save(model, file)
        check_answers(file, contract)
    return contract


def tools(*packages: str) -> dict[str, str]:
    """Return the versions of these packages, of this one and of ONNX Runtime."""
    versions = {name: version(name) for name in packages}
    # From the module, since it comes from one of two distributions.
    runtime = {"onnxruntime": onnxruntime.__version__}
    return {"resnet-serve": __version__} | versions | runtime

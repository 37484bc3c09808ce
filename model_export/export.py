"""The road from a trained network to a model file in its place."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx
import onnxruntime

from model_export.architectures.resnet import ResNet
from model_export.files import replacing
from model_export.golden_cases import golden_cases
from model_export.graph import OPTIONAL_OUTPUTS, Storage, prepare, to_onnx
from model_export.model_file import attach_contract
from model_export.reference import references
from model_export.verify import TOLERANCE, check_answers, measure_parity
from service import __version__
from service.contract import Label, ModelContract, Preprocessing, Weights


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported: all that the file's contract states and nobody measures."""

    name: str
    architecture: str
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    weights: Weights
    storage: Storage


def export(network: ResNet, subject: Subject, output: Path, *, largest_batch: int) -> ModelContract:
    """Write the model file at `output`, once it was verified; an older one there is replaced.

    Raises `GraphError`, `ParityError` or `OSError`; then `output` is as it was.
    """
    preprocessing, storage = subject.preprocessing, subject.storage
    served = prepare(network, preprocessing, storage)
    pytorch = references(network, served, preprocessing, storage)
    model = to_onnx(served, preprocessing.crop)
    with replacing(output) as file:
        onnx.save(model, file)
        parity = measure_parity(
            file, pytorch, storage, side=preprocessing.crop, largest_batch=largest_batch
        )
        contract = ModelContract(
            name=subject.name,
            architecture=subject.architecture,
            preprocessing=preprocessing,
            labels=subject.labels,
            optional_outputs=OPTIONAL_OUTPUTS,
            storage=storage,
            weights=subject.weights,
            tools=_tools(),
            parity=parity,
            tolerance=TOLERANCE,
            golden=golden_cases(pytorch.exact, preprocessing),
        )
        attach_contract(model, contract)
        onnx.save(model, file)
        check_answers(file, contract)
    return contract


def _tools() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "onnx", "onnxscript", "pillow")}
    # Asked of the module, since it comes from one of two distributions.
    runtime = {"onnxruntime": onnxruntime.__version__}
    return {"resnet-serve": __version__} | packages | runtime

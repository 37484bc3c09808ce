"""What `resnet-export export` and `resnet-export verify` do; they need PyTorch."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from model_export.architectures import ARCHITECTURES
from model_export.describe import describe_agreement
from model_export.errors import OptionsError
from model_export.export import Subject, export
from model_export.graph import optional_outputs, prepare
from model_export.labels import labels_for
from model_export.loading import build_network
from model_export.model_file import read_model
from model_export.networks import check_weights_options, find_checkpoint, trained_network
from model_export.precision import Lowering
from model_export.preprocessing import preprocessing_of
from model_export.reference import count_classes, references
from model_export.verify import check_answers, measure_parity
from service.contract import ModelContract, Parity
from service.cpus import has_vnni
from service.model_files import is_model_name, is_version

_LOWERING = {
    "images": ("fp16", "int8"),
    "min_agreement": ("fp16", "int8"),
    "calibration_images": ("int8",),
    "reduce_range": ("int8",),
    "per_channel": ("int8",),
}
"""Options by the precisions that they are for."""


def export_command(options: Namespace) -> None:
    """Export as the options say, and print what was measured."""
    output = checked_output(options.output)
    lowering = _lowering(options)
    trained = trained_network(options)
    preprocessing = preprocessing_of(
        options, trained.official, trained=trained.about.get("preprocessing")
    )
    classes = count_classes(trained.network, preprocessing.crop)
    subject = Subject(
        name=options.name or served_name(output),
        architecture=trained.architecture,
        preprocessing=preprocessing,
        labels=labels_for(classes, options.labels, trained.about.get("labels")),
        weights=trained.weights,
        storage=options.storage or "fp32",
    )
    contract = export(
        trained.network, subject, output, largest_batch=options.max_batch, lowering=lowering
    )
    said = f"{output}: {contract.architecture}, {len(contract.labels)} classes"
    sys.stdout.write(f"{said}; {_said(contract.parity)}\n")
    if contract.agreement:
        sys.stdout.write(f"{contract.precision}: {describe_agreement(contract.agreement)}\n")


def checked_output(output: Path) -> Path:
    """Give the path back if a model file may be there; raises `OptionsError`."""
    if output.suffix != ".onnx":
        raise OptionsError(f"--output {output}: must end in .onnx, or the service won't find it")
    if output.is_dir():
        raise OptionsError(f"--output {output}: is a folder")
    if not is_model_name(served_name(output)):
        raise OptionsError(
            f"--output {output}: a model's name is letters, digits and `._-`, 100 at most"
        )
    if output.stem.isdecimal() and not is_version(output.stem):
        raise OptionsError(f"--output {output}: a version is a number from 1 on, as in 1.onnx")
    return output


def served_name(output: Path) -> str:
    """Name the model as the service will: after NAME.onnx, or NAME/VERSION.onnx."""
    return output.resolve().parent.name if output.stem.isdecimal() else output.stem


def verify_command(options: Namespace) -> None:
    """Verify a model file as the options say, and print what was measured."""
    check_weights_options(options)
    _, contract = read_model(options.file)
    report = check_answers(options.file, contract)
    sys.stdout.write(
        f"{options.file}: {len(contract.golden)} golden cases agree, "
        f"max difference {report.max_abs_diff:.2g} ({contract.tolerance.cpu:g} is allowed)\n"
    )
    for warning in report.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    if options.weights is not None:
        sys.stdout.write(_verify_against(options, contract) + "\n")


def _lowering(options: Namespace) -> Lowering | None:
    given = [name for name in _LOWERING if getattr(options, name) is not None]
    for name in given:
        if options.precision not in _LOWERING[name]:
            flag = "--" + name.replace("_", "-")
            raise OptionsError(f"{flag} is for --precision {' and '.join(_LOWERING[name])}")
    if options.precision == "fp32":
        return None
    if options.storage is not None:
        raise OptionsError(
            f"--storage is for --precision fp32; weights of an {options.precision} file are stored "
            f"as {options.precision}"
        )
    if options.images is None:
        sys.stderr.write(
            "warning: without --images, generated patterns take the place of photos"
            + (
                ", and activations of photos go beyond theirs"
                if options.precision == "int8"
                else ""
            )
            + "; accuracy may be worse than what is measured here\n"
        )
        if options.calibration_images is not None:
            raise OptionsError("--calibration-images goes with --images")
    chosen = {"reduce_range": not has_vnni()} | {name: getattr(options, name) for name in given}
    return Lowering(options.precision, **chosen)


def _verify_against(options: Namespace, contract: ModelContract) -> str:
    """Repeat the export's comparison with PyTorch."""
    if contract.architecture not in ARCHITECTURES:
        raise OptionsError(f"{contract.architecture} can't be built here, so leave out --weights")
    # The second for mypy, which doesn't know that they go together.
    if contract.precision != "fp32" or contract.storage == "int8":
        raise OptionsError(
            f"{options.file}: is of {contract.precision}, so it is not compared with PyTorch; its "
            "golden cases were, and `resnet-export compare` compares it with a float32 file"
        )
    checkpoint = find_checkpoint(options, contract.architecture)
    network = build_network(contract.architecture, checkpoint)
    if contract.optional_outputs != optional_outputs(network):
        raise OptionsError(
            f"{options.file}: was not made of this program's {contract.architecture}, so leave out "
            "--weights"
        )
    served = prepare(network, contract.preprocessing, contract.storage)
    parity = measure_parity(
        options.file,
        references(network, served, contract.preprocessing, contract.storage),
        contract.storage,
        side=contract.preprocessing.crop,
        largest_batch=max(contract.parity.batch_sizes),
    )
    same = "" if checkpoint.sha256 == contract.weights.sha256 else "another file than at export, "
    return f"{checkpoint.path}: {same}{_said(parity)}"


def _said(parity: Parity) -> str:
    return (
        f"max difference from PyTorch {parity.max_abs_diff:.2g}, top-1 agreement "
        f"{parity.top1_agreement:.1%} on {parity.images} images at batch sizes "
        f"{', '.join(map(str, parity.batch_sizes))}"
    )

"""The commands `resnet-export export` and `resnet-export verify`, which need PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

from model_export.architectures import ARCHITECTURES
from model_export.architectures.classifier import fixed_side
from model_export.describe import describe_agreement
from model_export.errors import OptionsError
from model_export.export import Subject, export
from model_export.graph import optional_outputs, prepare
from model_export.images import open_images
from model_export.labels import labels_for
from model_export.loading import build_network
from model_export.model_file import read_model
from model_export.networks import find_whole, trained_network
from model_export.options import ExportOptions, PrecisionOptions, ServedPrecision, WeightsOptions
from model_export.precision import Lowering
from model_export.preprocessing import preprocessing_of
from model_export.progress import step
from model_export.reference import count_classes, references
from model_export.verify import check_answers, measure_parity
from service.contract import ModelContract, Parity, shown_size
from service.cpus import has_vnni


def export_command(options: ExportOptions) -> None:
    """Export as the options say, and print the measured parity and agreement."""
    said, output = options.contract, options.contract.output
    lowering = _lowering(options.precision)
    if lowering is not None and lowering.images is not None:
        with open_images(lowering.images):  # fails now, not after minutes
            pass
    with step("reading the weights"):
        trained = trained_network(options.network)
    known = trained.about.get("preprocessing")
    if options.network.stem == "small" and options.preprocessing.input_size is None and not known:
        raise OptionsError(
            "--stem small is for small images, and the weights do not say how small: pass "
            "--input-size"
        )
    preprocessing = preprocessing_of(
        options.preprocessing, trained.official, fixed=fixed_side(trained.network), trained=known
    )
    classes = count_classes(trained.network, preprocessing.input_size)
    subject = Subject(
        name=said.name,
        architecture=trained.architecture,
        preprocessing=preprocessing,
        labels=labels_for(classes, said.labels, trained.about.get("labels")),
        weights=trained.weights,
        storage=options.precision.storage or "fp32",
    )
    contract = export(
        trained.network, subject, output, largest_batch=said.max_batch, lowering=lowering
    )
    size = shown_size(preprocessing.input_size)
    made = f"{output}: {contract.architecture}, {len(contract.labels)} classes, {size} pixels"
    sys.stdout.write(f"{made}; {_said(contract.parity)}\n")
    if contract.agreement:
        sys.stdout.write(f"{contract.precision}: {describe_agreement(contract.agreement)}\n")


def verify_command(
    file: Path, weights: WeightsOptions, provider: str, precision: ServedPrecision
) -> None:
    """Verify a model file, also against weights if given, and print the differences."""
    _, contract = read_model(file)
    report = check_answers(file, contract, provider, precision)
    sys.stdout.write(
        f"{file}: {len(contract.golden)} golden cases agree, "
        f"max difference {report.max_abs_diff:.2g} ({report.tolerance:g} is allowed)\n"
    )
    for warning in report.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    if weights.source is not None:
        sys.stdout.write(_verify_against(file, contract, weights) + "\n")


def _lowering(options: PrecisionOptions) -> Lowering | None:
    if options.precision == "fp32":
        return None
    if options.images is None:
        sys.stderr.write(
            "warning: without --images, generated patterns are used instead of photos"
            + (", whose activations have a larger range" if options.precision == "int8" else "")
            + "; accuracy may be worse than measured here\n"
        )
    chosen = {"reduce_range": not has_vnni()} | options.lowering
    return Lowering(options.precision, **chosen)


def _verify_against(file: Path, contract: ModelContract, weights: WeightsOptions) -> str:
    """Repeat the export's comparison with PyTorch."""
    if contract.architecture not in ARCHITECTURES:
        raise OptionsError(f"{contract.architecture} can't be built here, so leave out --weights")
    # The second condition is for mypy, which doesn't know that it follows from the first.
    if contract.precision != "fp32" or contract.storage == "int8":
        raise OptionsError(
            f"{file}: has precision {contract.precision}, so it can't be compared with PyTorch; "
            "its golden cases were checked, and `resnet-export compare` compares it with a float32 "
            "file"
        )
    checkpoint = find_whole(weights, contract.architecture)
    network = build_network(contract.architecture, checkpoint)
    if contract.optional_outputs != optional_outputs(network):
        raise OptionsError(
            f"{file}: was not made from this program's {contract.architecture}, so leave out "
            "--weights"
        )
    served = prepare(network, contract.preprocessing, contract.storage)
    parity = measure_parity(
        file,
        references(network, served, contract.preprocessing, contract.storage),
        contract.storage,
        size=contract.preprocessing.input_size,
        largest_batch=max(contract.parity.batch_sizes),
    )
    is_same = checkpoint.sha256 == contract.weights.sha256
    note = "" if is_same else "not the file it was exported from, "
    return f"{checkpoint.path}: {note}{_said(parity)}"


def _said(parity: Parity) -> str:
    return (
        f"max difference from PyTorch {parity.max_abs_diff:.2g}, top-1 agreement "
        f"{parity.top1_agreement:.1%} on {parity.images} images at batch sizes "
        f"{', '.join(map(str, parity.batch_sizes))}"
    )

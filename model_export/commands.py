"""What `resnet-export export` and `resnet-export verify` do; they need PyTorch."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from pydantic import ValidationError

from model_export.architectures import ARCHITECTURES
from model_export.checkpoint import Checkpoint, build_network, read_checkpoint, stem_of
from model_export.errors import OptionsError
from model_export.export import Subject, export
from model_export.graph import prepare
from model_export.labels import labels_for
from model_export.model_file import read_model
from model_export.reference import references
from model_export.verify import check_answers, measure_parity
from model_export.weights import OFFICIAL, OfficialWeights, default_cache, fetch
from service.contract import ModelContract, Parity, Preprocessing, Weights

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESIZE, _CROP = 256, 224  # the usual evaluation of ImageNet classifiers


def export_command(options: Namespace) -> None:
    """Export as the options say, and print what was measured."""
    output: Path = options.output
    if output.suffix != ".onnx":
        raise OptionsError(f"--output {output}: must end in .onnx, or the service won't find it")
    if output.is_dir():
        raise OptionsError(f"--output {output}: is a folder")
    checkpoint = _checkpoint(options.weights, options.architecture, options.cache_dir)
    official = _official(checkpoint, options.architecture)
    preprocessing = _preprocessing(options, official)
    network = build_network(options.architecture, checkpoint, options.stem)
    subject = Subject(
        name=options.name or _served_name(output),
        architecture=options.architecture,
        preprocessing=preprocessing,
        labels=labels_for(network.fc.out_features, options.labels),
        weights=Weights(
            source=options.source_note or _source(checkpoint, official), sha256=checkpoint.sha256
        ),
        storage=options.storage,
    )
    contract = export(network, subject, output, largest_batch=options.max_batch)
    classes = f"{contract.architecture}, {len(contract.labels)} classes"
    sys.stdout.write(f"{output}: {classes}; {_said(contract.parity)}\n")


def verify_command(options: Namespace) -> None:
    """Verify a model file as the options say, and print what was measured."""
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


def _verify_against(options: Namespace, contract: ModelContract) -> str:
    """Repeat the export's comparison with PyTorch."""
    if contract.architecture not in ARCHITECTURES:
        raise OptionsError(f"{contract.architecture} can't be built here, so leave out --weights")
    checkpoint = _checkpoint(options.weights, contract.architecture, options.cache_dir)
    network = build_network(contract.architecture, checkpoint, stem_of(checkpoint))
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


def _checkpoint(source: str, architecture: str, cache: Path | None) -> Checkpoint:
    path = Path(source)
    if source == "imagenet":
        path = fetch(OFFICIAL[architecture], cache or default_cache())
    return read_checkpoint(path)


def _official(checkpoint: Checkpoint, architecture: str) -> OfficialWeights | None:
    """Know official weights by their checksum, also where they were downloaded by hand."""
    official = OFFICIAL[architecture]
    return official if checkpoint.sha256.startswith(official.sha256_prefix) else None


def _preprocessing(options: Namespace, official: OfficialWeights | None) -> Preprocessing:
    """Options first, then what belongs to official weights, then ImageNet's usual values."""
    resize, crop = (official.resize, official.crop) if official else (_RESIZE, _CROP)
    interpolation = official.interpolation if official else "bilinear"
    side = options.input_size or crop
    try:
        return Preprocessing(
            # Another input size keeps the part of the image that is seen.
            resize=options.resize or round(side * resize / crop),
            crop=side,
            interpolation=options.interpolation or interpolation,
            mean=options.mean or _IMAGENET_MEAN,
            std=options.std or _IMAGENET_STD,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"][:1])
        raise OptionsError(f"the preprocessing does not hold: {where}{first['msg']}") from error


def _served_name(output: Path) -> str:
    """Name the model as the service will: after NAME.onnx, or NAME/VERSION.onnx."""
    return output.resolve().parent.name if output.stem.isdecimal() else output.stem


def _source(checkpoint: Checkpoint, official: OfficialWeights | None) -> str:
    if official is None:
        return checkpoint.path.name
    return (
        f"torchvision {official.file}; as published, top-1 {official.top1} % and "
        f"top-5 {official.top5} % on ImageNet-1k's validation set"
    )


def _said(parity: Parity) -> str:
    return (
        f"max difference from PyTorch {parity.max_abs_diff:.2g}, top-1 agreement "
        f"{parity.top1_agreement:.1%} on {parity.images} images at batch sizes "
        f"{', '.join(map(str, parity.batch_sizes))}"
    )

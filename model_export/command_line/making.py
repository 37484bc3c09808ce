"""The commands that make model files: `export`, `adopt` and `upgrade`."""

from __future__ import annotations

from model_export.command_line import arguments as given
from model_export.command_line.jobs import Job, job
from model_export.options import (
    AdoptOptions,
    ContractOptions,
    ExportOptions,
    MultiLabelOptions,
    NetworkOptions,
    PrecisionOptions,
    PreprocessingOptions,
    UpgradeOptions,
    WeightsOptions,
)


def export(  # noqa: PLR0913 - each is an option
    *,
    architecture: given.Architecture = None,
    module: given.Module = None,
    stem: given.Stem = None,
    weights: given.Weights = None,
    weights_entry: given.WeightsEntry = None,
    cache_dir: given.CacheDir = None,
    output: given.Output,
    labels: given.Labels = None,
    name: given.Name = None,
    source_note: given.SourceNote = None,
    max_batch: given.MaxBatch = 32,
    input_size: given.InputSize = None,
    resize: given.Resize = None,
    interpolation: given.Interpolation = None,
    mean: given.Mean = None,
    std: given.Std = None,
    fit: given.Fit = None,
    fill: given.Fill = None,
    precision: given.Precision = "fp32",
    storage: given.Storage = None,
    images: given.LoweringImages = None,
    calibration_images: given.CalibrationImages = None,
    min_agreement: given.MinAgreement = None,
    reduce_range: given.ReduceRange = None,
    per_channel: given.PerChannel = None,
) -> Job:
    """Export trained weights to a model file.

    The result is one self-describing ONNX file, written only after it has been verified against
    PyTorch. The base width and the number of classes are inferred from the weights.
    """
    options = ExportOptions(
        NetworkOptions(
            architecture, module, stem, WeightsOptions(weights, weights_entry, cache_dir),
            source_note,
        ),
        ContractOptions.of(output, labels, name, source_note, max_batch),
        PreprocessingOptions(input_size, resize, interpolation, mean, std, fit, fill=fill),
        PrecisionOptions(
            precision, storage, images, calibration_images, min_agreement, reduce_range,
            per_channel,
        ),
    )  # fmt: skip
    return job("model_export.commands", "export_command", options)


def adopt(  # noqa: PLR0913 - each is an option
    *,
    file: given.ForeignFile,
    output: given.Output,
    labels: given.Labels = None,
    name: given.Name = None,
    architecture: given.AdoptedAs = "adopted",
    source_note: given.SourceNote = None,
    max_batch: given.MaxBatch = 32,
    output_name: given.OutputName = None,
    gives: given.Gives = None,
    multi_label: given.MultiLabel = False,
    threshold: given.Threshold = None,
    thresholds: given.Thresholds = None,
    channels: given.Channels = "rgb",
    input_size: given.InputSize = None,
    resize: given.Resize = None,
    interpolation: given.Interpolation = None,
    mean: given.Mean = None,
    std: given.Std = None,
    preprocessor: given.PreprocessorFile = None,
    fit: given.Fit = None,
    crop_pct: given.CropPct = None,
    fill: given.Fill = None,
    position: given.Position = None,
    offset: given.Offset = None,
    rescale: given.Rescale = None,
) -> Job:
    """Make a model file from an existing ONNX classifier.

    The classifier must map normalised float32 [N, 3, H, W] to logits or probabilities [N, C], for
    any N.
    """
    options = AdoptOptions(
        file,
        ContractOptions.of(output, labels, name, source_note, max_batch),
        PreprocessingOptions(
            input_size, resize, interpolation, mean, std, fit, crop_pct, fill, position, offset,
            rescale,
        ),
        architecture, output_name, gives, channels,
        MultiLabelOptions(multi_label, threshold, thresholds), preprocessor,
    )  # fmt: skip
    return job("model_export.adopt", "adopt_command", options)


def upgrade(*, file: given.ModelFile, output: given.UpgradedOutput = None) -> Job:
    """Rewrite an older model file's contract in this release's schema.

    Nothing else in the file changes. The service also reads older contracts.
    """
    return job("model_export.upgrade", "upgrade_command", UpgradeOptions(file, output))

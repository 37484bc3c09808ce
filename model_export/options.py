"""What the commands of `resnet-export` can be asked, as the command line has read it.

What can be judged without PyTorch is judged here, since PyTorch takes seconds to import: options
that do not go together raise `OptionsError` as soon as they are put together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from model_export.architectures import Stem
from model_export.errors import OptionsError, WeightsError
from model_export.files import missing, resolved
from service.contract import Faster, Fit, Interpolation, Offset, Position, both_sides, shown_size
from service.models.files import is_model_name, is_version

ServedPrecision = Literal["auto", "exact"]
"""Whether a faster precision is taken that a file allows, or that of the file."""

Storage = Literal["fp32", "fp16"]
"""How weights are kept in a file that computes in float32."""

Precision = Literal["fp32", "fp16", "int8"]
Triple = tuple[float, float, float]
SizeOption = int | tuple[int, int]
"""A square's side, or (height, width)."""

IMAGENET = "imagenet"
"""In place of a file of weights: torchvision's official ones."""

_LOWERING: dict[str, tuple[Precision, ...]] = {
    "images": ("fp16", "int8"),
    "min_agreement": ("fp16", "int8"),
    "calibration_images": ("int8",),
    "reduce_range": ("int8",),
    "per_channel": ("int8",),
}
"""Options by the precisions that they are for."""


@dataclass(frozen=True, slots=True)
class WeightsOptions:
    """Where trained parameters come from: a file, or `imagenet`."""

    source: str | None = None
    entry: str | None = None
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.entry is not None and self.source is None:
            raise OptionsError("--weights-entry goes with --weights")
        if self.cache_dir is not None and self.source != IMAGENET:
            raise OptionsError("--cache-dir is for --weights imagenet")

    def check_file(self) -> None:
        """Raise `WeightsError` if there is no such file; asked once all options fit together."""
        if self.source in {None, IMAGENET}:
            return
        if reason := missing(Path(self.source or "")):
            raise WeightsError(reason)


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """Which network: one of ours, with its weights, or a factory of the user's own code."""

    architecture: str | None
    module: str | None
    stem: Stem | None
    weights: WeightsOptions
    source_note: str | None = None

    def __post_init__(self) -> None:
        if (self.architecture is None) == (self.module is None):
            raise OptionsError("give the name of an architecture or --module, one of them")
        if self.module is None:
            if self.weights.source is None:
                raise OptionsError("--weights is missing")
            return
        package, colon, name = self.module.partition(":")
        if not (package and colon and name):
            raise OptionsError(f"--module {self.module}: must be package.module:factory")
        if self.stem is not None:
            raise OptionsError("--stem is for the architectures of this program, not for --module")
        if self.weights.source == IMAGENET:
            raise OptionsError("--weights imagenet is for the architectures of this program")


@dataclass(frozen=True, slots=True)
class PreprocessingOptions:
    """What an image goes through before the network; None: what belongs to the weights."""

    input_size: SizeOption | None = None
    resize: SizeOption | None = None
    interpolation: Interpolation | None = None
    mean: Triple | None = None
    std: Triple | None = None
    fit: Fit | None = None
    crop_pct: float | None = None
    fill: tuple[int, int, int] | None = None
    position: Position | None = None
    offset: Offset | None = None
    rescale: float | None = None

    def __post_init__(self) -> None:
        if self.input_size is not None and self.resize is not None and self.fit != "contain":
            check_crop(self.input_size, self.resize)
        if self.crop_pct is not None and self.resize is not None:
            raise OptionsError("--crop-pct and --resize say the same thing: give one of them")
        if self.fit != "contain" and (self.fill or self.position):
            flag = "--fill" if self.fill else "--position"
            raise OptionsError(f"{flag} is for --fit contain, which surrounds an image")
        if self.rescale is not None and (self.mean is None or self.std is None):
            raise OptionsError(
                "--rescale changes what --mean and --std mean, so it needs both; "
                "0 0 0 and 1 1 1 leave pixels as they are"
            )
        if self.fit == "short_side" and not isinstance(self.resize, int | None):
            raise OptionsError("--resize is one number with --fit short_side: that side's length")


@dataclass(frozen=True, slots=True)
class ContractOptions:
    """What a model file's contract needs, wherever the network comes from."""

    output: Path
    labels: Path | None
    name: str
    source_note: str | None
    max_batch: int

    @classmethod
    def of(
        cls,
        output: Path,
        labels: Path | None,
        name: str | None,
        source_note: str | None,
        max_batch: int,
    ) -> ContractOptions:
        """Name the model after its file, unless it has a name. Raises `OptionsError`."""
        _check_output(output)
        return cls(output, labels, name or _served_name(output), source_note, max_batch)


@dataclass(frozen=True, slots=True)
class PrecisionOptions:
    """What precision the file is to have, and how it gets there; None: as usual."""

    precision: Precision = "fp32"
    storage: Storage | None = None
    images: Path | None = None
    calibration_images: int | None = None
    min_agreement: float | None = None
    reduce_range: bool | None = None
    per_channel: bool | None = None

    def __post_init__(self) -> None:
        for name, precisions in _LOWERING.items():
            if getattr(self, name) is not None and self.precision not in precisions:
                flag = "--" + name.replace("_", "-")
                raise OptionsError(f"{flag} is for --precision {' and '.join(precisions)}")
        if self.precision != "fp32" and self.storage is not None:
            raise OptionsError(
                f"--storage is for --precision fp32; weights of an {self.precision} file are "
                f"stored as {self.precision}"
            )
        if self.calibration_images is not None and self.images is None:
            raise OptionsError("--calibration-images goes with --images")

    @property
    def lowering(self) -> dict[str, Any]:
        """What was said of a lower precision."""
        return {name: value for name in _LOWERING if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What `export` is asked."""

    network: NetworkOptions
    contract: ContractOptions
    preprocessing: PreprocessingOptions
    precision: PrecisionOptions

    def __post_init__(self) -> None:
        self.network.weights.check_file()


@dataclass(frozen=True, slots=True)
class MultiLabelOptions:
    """Whether an image can have several labels, and what probability each needs."""

    independent: bool
    threshold: float | None = None
    thresholds: Path | None = None

    def __post_init__(self) -> None:
        if not self.independent and (self.threshold is not None or self.thresholds is not None):
            flag = "--thresholds" if self.threshold is None else "--threshold"
            raise OptionsError(f"{flag} goes with --multi-label")


@dataclass(frozen=True, slots=True)
class AdoptOptions:
    """What `adopt` is asked."""

    file: Path
    contract: ContractOptions
    preprocessing: PreprocessingOptions
    architecture: str
    output_name: str | None
    gives: Literal["logits", "probabilities"] | None
    channels: Literal["rgb", "bgr"]
    multi_label: MultiLabelOptions
    preprocessor: Path | None = None

    def __post_init__(self) -> None:
        if resolved(self.contract.output) == resolved(self.file):
            raise OptionsError(f"--output {self.contract.output}: is the file to adopt itself")
        said = [name for name, value in asdict(self.preprocessing).items() if value is not None]
        if self.preprocessor is not None and said:
            raise OptionsError(
                f"--preprocessor says how images are prepared, so leave out "
                f"{', '.join('--' + name.replace('_', '-') for name in said)}"
            )


@dataclass(frozen=True, slots=True)
class UpgradeOptions:
    """What `upgrade` is asked; without an output, the file itself is replaced."""

    file: Path
    output: Path | None

    def __post_init__(self) -> None:
        if self.output is not None:
            _check_output(self.output)


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What `evaluate` is asked."""

    file: Path
    images: Path
    limit: int | None
    provider: str
    precision: ServedPrecision
    data_set: str
    write: bool
    all_classes: bool
    plot: Path | None
    as_json: bool

    def __post_init__(self) -> None:
        if self.plot is not None and self.plot.is_dir():
            raise OptionsError(f"--plot {self.plot}: is a folder")
        if self.write and self.limit is not None:
            raise OptionsError("--write is for all images, so not with --limit")
        if self.write and self.precision == "auto":
            raise OptionsError(
                "--write is for the file's own precision: leave out --precision auto"
            )


@dataclass(frozen=True, slots=True)
class AllowOptions:
    """What `allow` is asked; `min_agreement` is what the bound of the agreement has to reach."""

    file: Path
    precision: Faster
    images: Path
    limit: int | None
    data_set: str
    min_agreement: float


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What `calibrate` is asked; `fit_share` of the images are fitted, the others test."""

    file: Path
    images: Path
    data_set: str
    outside: Path | None
    provider: str
    seed: int
    fit_share: float
    kept: float

    @property
    def outside_set(self) -> str:
        """Return the name of the images from outside."""
        return resolved(self.outside).name if self.outside is not None else ""


def check_crop(crop: SizeOption, resize: SizeOption) -> None:
    """Raise `OptionsError` if an image resized to `resize` has no such crop."""
    if any(c > r for c, r in zip(both_sides(crop), both_sides(resize), strict=True)):
        raise OptionsError(
            f"the preprocessing does not hold: crop ({shown_size(crop)}) is larger than resize "
            f"({shown_size(resize)})"
        )


def _check_output(output: Path) -> None:
    if output.suffix != ".onnx":
        raise OptionsError(f"--output {output}: must end in .onnx, or the service won't find it")
    if output.is_dir():
        raise OptionsError(f"--output {output}: is a folder")
    if not is_model_name(_served_name(output)):
        raise OptionsError(
            f"--output {output}: a model's name is letters, digits and `._-`, 100 at most"
        )
    if output.stem.isdecimal() and not is_version(output.stem):
        raise OptionsError(f"--output {output}: a version is a number from 1 on, as in 1.onnx")


def _served_name(output: Path) -> str:
    """Name the model as the service will: after NAME.onnx, or NAME/VERSION.onnx."""
    return resolved(output).parent.name if output.stem.isdecimal() else output.stem

"""The contract: what a model file says about itself.

A model file is an ONNX graph that takes uint8 pixels and returns probabilities, with this contract
as JSON in its metadata under `METADATA_KEY`. The exporter writes it and the service reads it;
neither defines an input size, a label or a tolerance anywhere else.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from service.errors import ContractError
from service.wording import what_is_wrong

METADATA_KEY = "resnet_serve.contract"
"""The ONNX metadata property that holds the contract."""

INPUT_NAME = "images"
"""Graph input: uint8 [N, H, W, 3], RGB, resized and cropped."""

PROBABILITIES = "probabilities"
"""The output that every model file has: float32 [N, C], softmax applied."""

EMBEDDING = "embedding"
"""An optional output, the pooled features: float32 [N, D]."""

FEATURES = "features"
"""An optional output, the features before pooling: float32 [N, D, h, w]."""

CLASSIFIER_WEIGHT = "classifier_weight"
"""An optional output, the same for every batch: float32 [C, D]."""

SCHEMA_VERSION: Final = 2
"""Schema of contracts that are written; schema 1 can also be read."""

REFERENCE_PROVIDER = "cpu"
"""The provider whose tolerances every file has; they also apply to providers without their own."""

Precision = Literal["fp32", "fp16", "int8"]
Faster = Literal["bf16", "tf32", "fp16"]
"""What products of float32 can be rounded to, where a device is faster so."""

ProviderKey = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Tolerance = Annotated[float, Field(gt=0, lt=1)]
"""The largest difference in a probability at which a golden case still agrees."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    """A frozen part of a contract; it forbids unknown fields, which come from a newer tool."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Label(_Part):
    """One class: a stable `id` (for ImageNet the WordNet id) and a display name."""

    id: str
    label: str


class Preprocessing(_Part):
    """How an encoded image becomes pixels; mean and std are applied inside the graph.

    The image is rotated by its EXIF orientation, resized so that its short side is `resize` pixels,
    and cropped to the central `crop` x `crop` pixels. `mean` and `std` are for RGB from 0 to 1.
    """

    resize: Annotated[int, Field(ge=1, le=4096)]
    crop: Annotated[int, Field(ge=1, le=4096)]
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box"]
    exif: Literal["apply", "ignore"] = "apply"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="after")
    def _crop_fits(self) -> Preprocessing:
        if self.crop > self.resize:
            raise ValueError(f"crop ({self.crop}) is larger than resize ({self.resize})")
        return self


class Weights(_Part):
    """Where the trained weights came from."""

    source: str
    sha256: Sha256


class Parity(_Part):
    """How far the file's probabilities are from PyTorch's, measured at export."""

    max_abs_diff: Annotated[float, Field(ge=0)]
    top1_agreement: Fraction
    images: Annotated[int, Field(ge=1)]
    batch_sizes: tuple[int, ...]


class Agreement(_Part):
    """How far the probabilities of a lower-precision file are from those of the float32 one."""

    source: str
    images: Annotated[int, Field(ge=1)]
    top1: Fraction
    mean_abs_diff: Annotated[float, Field(ge=0)]
    max_abs_diff: Annotated[float, Field(ge=0)]


class Allowed(_Part):
    """How far a float32 file's answers in a faster precision are from its own, on real images.

    Measured on `device` through `provider`. `same_labels` of the `images` got the same best label.
    """

    source: str
    images: Annotated[int, Field(ge=1)]
    same_labels: Annotated[int, Field(ge=0)]
    mean_abs_diff: Annotated[float, Field(ge=0)]
    max_abs_diff: Annotated[float, Field(ge=0)]
    tolerance: Tolerance
    provider: ProviderKey
    device: str
    tools: dict[str, str]

    @model_validator(mode="after")
    def _is_a_share(self) -> Allowed:
        if self.same_labels > self.images:
            raise ValueError(f"{self.same_labels} labels are the same of {self.images} images")
        return self

    @property
    def top1(self) -> float:
        """Return the share of the images with the same best label."""
        return self.same_labels / self.images

    @property
    def lower_bound(self) -> float:
        """Return the lower end of the share's 95 % confidence interval (Wilson's score)."""
        return wilson_lower_bound(self.same_labels, self.images)


class Accuracy(_Part):
    """The accuracy of the exported file, measured on labelled images."""

    data_set: str
    images: Annotated[int, Field(ge=1)]
    top1: Fraction
    top5: Fraction


class GoldenPattern(_Part):
    """A golden case whose pixels come from an integer formula (`golden_pattern`)."""

    kind: Literal["pattern"] = "pattern"
    seed: Annotated[int, Field(ge=0)]
    probabilities: tuple[float, ...]


class GoldenPhoto(_Part):
    """A golden case with a small encoded image, so that it covers decoding and resizing too.

    `pixels_sha256` is of the decoded, rotated, resized and cropped uint8 [crop, crop, 3] array.
    """

    kind: Literal["photo"] = "photo"
    data_base64: str
    pixels_sha256: Sha256
    probabilities: tuple[float, ...]


class ModelContract(_Part):
    """Everything needed to serve a model file and to verify it."""

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    architecture: str
    preprocessing: Preprocessing
    labels: Annotated[tuple[Label, ...], Field(min_length=2)]
    optional_outputs: tuple[Literal["embedding", "features", "classifier_weight"], ...] = ()
    precision: Precision = "fp32"
    storage: Precision = "fp32"
    weights: Weights
    tools: dict[str, str]
    parity: Parity
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    tolerances: dict[ProviderKey, dict[Precision, Tolerance]]
    allowed: dict[Faster, Allowed] | None = None
    golden: Annotated[
        tuple[Annotated[GoldenPattern | GoldenPhoto, Field(discriminator="kind")], ...],
        Field(min_length=1),
    ]

    @model_validator(mode="before")
    @classmethod
    def _of_any_schema(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        version = schema_of(fields)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ValueError(
                f"schema_version: {version} is from a newer release; this one reads up to "
                f"{SCHEMA_VERSION}"
            )
        return _from_schema_1(fields) if version == 1 and "tolerances" not in fields else fields

    @model_validator(mode="after")
    def _can_be_checked(self) -> ModelContract:
        if self.precision not in self.tolerances.get(REFERENCE_PROVIDER, {}):
            raise ValueError(f"tolerances: has none for {REFERENCE_PROVIDER} at {self.precision}")
        return self

    @model_validator(mode="after")
    def _only_float32_is_rounded(self) -> ModelContract:
        if self.allowed and self.precision != "fp32":
            raise ValueError(
                f"allowed: is for files of float32, and this is one of {self.precision}"
            )
        return self

    @model_validator(mode="after")
    def _counts_agree(self) -> ModelContract:
        ids = [label.id for label in self.labels]
        if len(set(ids)) != len(ids):
            raise ValueError("label ids are not unique")
        for case in self.golden:
            if len(case.probabilities) != len(self.labels):
                raise ValueError(
                    f"a golden case has {len(case.probabilities)} probabilities "
                    f"for {len(self.labels)} labels"
                )
        return self

    def tolerance(self, provider: str) -> float:
        """Return how far a probability may be off on a provider, at the file's precision.

        If the file has no tolerance for the provider at that precision, the CPU's applies.
        """
        reference = self.tolerances[REFERENCE_PROVIDER][self.precision]
        return self.tolerances.get(provider, {}).get(self.precision, reference)

    @property
    def loosest_tolerance(self) -> float:
        """Return the largest tolerance of any provider, at the file's precision."""
        return max(self.tolerance(provider) for provider in self.tolerances)


def wilson_lower_bound(hits: int, of: int, z: float = 1.96) -> float:
    """Return the lower end of Wilson's score interval of a share; by its `z`, of 95 %.

    Unlike the share itself, it says less of 20 images than of 2,000 (Wilson, "Probable inference,
    the law of succession, and statistical inference", 1927).
    """
    share = hits / of
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, (share + z * z / (2 * of) - spread) / (1 + z * z / of))


def schema_of(fields: Mapping[str, Any]) -> Any:
    """Return the schema version that a contract's JSON states or implies; may be no number."""
    return fields.get("schema_version", 1 if "tolerance" in fields else SCHEMA_VERSION)


def _from_schema_1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert to schema 2; in schema 1, tolerances were for the file's precision only.

    Invalid values are left for validation to reject.
    """
    read = {name: value for name, value in fields.items() if name != "tolerance"}
    read["schema_version"] = SCHEMA_VERSION
    precision, tolerance = fields.get("precision", "fp32"), fields.get("tolerance")
    if isinstance(tolerance, dict) and isinstance(precision, str):
        read["tolerances"] = {name: {precision: limit} for name, limit in tolerance.items()}
    return read


def way_to_a_model_file(file: str) -> str:
    """Return a hint on making a model file from another program's ONNX file or from weights."""
    return (
        f"`resnet-export adopt {shlex.quote(file)} --output NAME.onnx` makes a model file from "
        "another program's ONNX file, `resnet-export export` one from trained weights"
    )


def parse_contract(metadata: Mapping[str, str], *, file: str) -> ModelContract:
    """Read the contract from a model file's metadata.

    `file` is only used in error messages. Raises `ContractError` if it is missing or invalid.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ContractError(
            f"{file}: has no contract, so its labels and preprocessing are unknown; "
            f"{way_to_a_model_file(file)}"
        )
    try:
        return ModelContract.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        hint = "; a newer release may have written it" if first["type"] == "extra_forbidden" else ""
        what = " ".join(
            f"{where + ': ' if where else ''}{what_is_wrong(first)}{hint}".split()
        )  # one line
        raise ContractError(f"{file}: its contract is invalid: {what}") from error

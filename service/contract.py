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
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from service.errors import ContractError
from service.wording import what_is_wrong

METADATA_KEY = "resnet_serve.contract"
"""The ONNX metadata property that holds the contract."""

INPUT_NAME = "images"
"""Graph input: uint8 [N, H, W, 3], RGB, resized and cropped."""

PROBABILITIES = "probabilities"
"""The output that every model file has: float32 [N, C], softmax (or, for `multi_label`, sigmoid)
applied."""

EMBEDDING = "embedding"
"""An optional output, the pooled features: float32 [N, D]."""

FEATURES = "features"
"""An optional output, the features before pooling: float32 [N, D, h, w]."""

CLASSIFIER_WEIGHT = "classifier_weight"
"""An optional output, the same for every batch: float32 [C, D]."""

SCHEMA_VERSION: Final = 2
"""Schema of contracts that older releases can read, too; schema 1 can also be read."""

NEWEST_SCHEMA: Final = 3
"""Schema of contracts that older releases would have to guess at: other fits than the short side,
sizes that are no squares, filters `nearest` and `hamming`, independent labels."""

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
Byte = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=1, le=4096)]


def _simplest(size: int | tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


def _form(size: Any) -> str:
    return "height and width" if isinstance(size, list | tuple) else "side"


# Told apart by their form, so that an error is about the one that was meant.
Size = Annotated[
    Annotated[Side, Tag("side")] | Annotated[tuple[Side, Side], Tag("height and width")],
    Discriminator(_form),
    AfterValidator(_simplest),
]
"""A square's side, or height and width."""

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's filters."""

Fit = Literal["short_side", "cover", "contain", "squash"]
Offset = Literal["even", "down"]
Position = Literal["center", "top_left"]


class _Part(BaseModel):
    """A frozen part of a contract; it forbids unknown fields, which come from a newer tool."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Label(_Part):
    """One class: a stable `id` (for ImageNet the WordNet id) and a display name."""

    id: str
    label: str


class Preprocessing(_Part):
    """How an encoded image becomes pixels; mean and std are applied inside the graph.

    The image is rotated by its EXIF orientation, resized as `fit` says, and its central `crop` is
    kept. `mean` and `std` are for RGB from 0 to 1. A size is a square's side or (height, width).

    | fit          | resized                                                                      |
    |--------------|------------------------------------------------------------------------------|
    | `short_side` | so that the short side is `resize`; the long one is rounded down             |
    | `cover`      | to the smallest size that covers `resize`, keeping the aspect ratio          |
    | `contain`    | to the largest that fits into `resize`; then `fill` surrounds it up to `crop` |
    | `squash`     | to exactly `resize`, whatever its aspect ratio                               |
    """

    resize: Size
    crop: Size
    interpolation: Interpolation
    exif: Literal["apply", "ignore"] = "apply"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit = "short_side"
    offset: Offset | None = None
    """How half a pixel in the crop's offset is rounded: to the even number (torchvision, timm) or
    down (Hugging Face). None, as in schema 2, is the even number, too, but with `short_side` the
    crop is then part of the one resize, which may change a pixel by a level or two."""
    fill: tuple[Byte, Byte, Byte] = (0, 0, 0)
    """The RGB colour of what surrounds a contained image."""
    position: Position = "center"
    """Where a contained image lies; an odd pixel of fill goes to the right or below."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Return height and width of the model's input."""
        return both_sides(self.crop)

    @property
    def resize_to(self) -> tuple[int, int]:
        """Return the height and width to resize to; for `short_side`, both are the short side."""
        return both_sides(self.resize)

    @property
    def needs_schema_3(self) -> bool:
        """Return whether schema 2 has no words for it; if so, resizing and cropping are apart."""
        return (
            self.fit != "short_side"
            or self.offset is not None
            or not isinstance(self.crop, int)
            or self.interpolation in {"nearest", "hamming"}
        )

    @model_validator(mode="after")
    def _crop_fits(self) -> Preprocessing:
        if self.fit == "short_side" and not isinstance(self.resize, int):
            raise ValueError("resize is one number with fit short_side, the length of that side")
        inside = all(c <= r for c, r in zip(self.input_size, self.resize_to, strict=True))
        if not inside and self.fit != "contain":
            raise ValueError(
                f"crop ({shown_size(self.crop)}) is larger than resize ({shown_size(self.resize)})"
            )
        if self.fit != "contain" and {"fill", "position"} & self.model_fields_set:
            raise ValueError("fill and position are for fit contain")
        return self

    @model_serializer(mode="wrap")
    def _without_new_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is as it always was, so that older readers can read it."""
        old = {"fit": "short_side", "offset": None, "fill": (0, 0, 0), "position": "center"}
        return {
            name: value
            for name, value in dump(self).items()
            if name not in old or getattr(self, name) != old[name]
        }


def both_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of a size, which may be a square's side."""
    return (size, size) if isinstance(size, int) else size


def shown_size(size: int | tuple[int, int]) -> str:
    """Return a size as text: a square's side, or height x width."""
    return str(size) if isinstance(size, int) else "{} x {}".format(*size)


class MultiLabel(_Part):
    """Says that labels are independent (a sigmoid each): an image has any number of them.

    An image has a label if its probability is at least the label's threshold.
    """

    threshold: Fraction = 0.5
    thresholds: dict[str, Fraction] = Field(default_factory=dict)
    """By label id, where another than `threshold` applies."""

    def of(self, label: str) -> float:
        """Return the threshold of the label with that id."""
        return self.thresholds.get(label, self.threshold)


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

    `pixels_sha256` is of the decoded, rotated, resized and cropped uint8 [H, W, 3] array.
    """

    kind: Literal["photo"] = "photo"
    data_base64: str
    pixels_sha256: Sha256
    probabilities: tuple[float, ...]


class ModelContract(_Part):
    """Everything needed to serve a model file and to verify it."""

    schema_version: Literal[2, 3] = SCHEMA_VERSION
    """Set by what the rest needs, so that older releases can read what they can serve."""
    name: str
    architecture: str
    preprocessing: Preprocessing
    labels: Annotated[tuple[Label, ...], Field(min_length=2)]
    multi_label: MultiLabel | None = None
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
        if isinstance(version, int) and version > NEWEST_SCHEMA:
            raise ValueError(
                f"schema_version: {version} is from a newer release; this one reads up to "
                f"{NEWEST_SCHEMA}"
            )
        return _from_schema_1(fields) if version == 1 and "tolerances" not in fields else fields

    @model_validator(mode="after")
    def _has_its_schema(self) -> ModelContract:
        if self.multi_label is not None or self.preprocessing.needs_schema_3:
            object.__setattr__(self, "schema_version", NEWEST_SCHEMA)  # frozen for everyone else
        return self

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
        for name in self.multi_label.thresholds if self.multi_label else ():
            if name not in ids:
                raise ValueError(f"multi_label: has a threshold for {name!r}, which is no label")
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

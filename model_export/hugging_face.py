"""Hugging Face's image processors, as what a contract says of preprocessing.

As in `transformers.models.*.image_processing_*`, with Pillow. Their defaults have changed between
releases; what a configuration leaves out is only assumed where all releases agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_export.errors import PreprocessorError
from service.contract import Interpolation, Preprocessing, Side

_FILTERS: tuple[Interpolation, ...] = (
    "nearest", "lanczos", "bilinear", "bicubic", "box", "hamming",
)  # fmt: skip
"""By Pillow's numbers, which the files have."""

_WARPED_FROM = 384
"""Shortest edge from which ConvNeXT's processor squashes images and crops nothing."""

Triple = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
_STANDARD: tuple[Triple, Triple] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_CLIP: tuple[Triple, Triple] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A processor's defaults; `resample` is None where releases differ."""

    size: Mapping[str, int]
    crop: int | None = None
    normalisation: tuple[Triple, Triple] = _STANDARD
    resample: Interpolation | None = None
    own: frozenset[str] = frozenset()
    """Keys that only this one has."""


_SQUARE, _EDGE = {"height": 224, "width": 224}, {"shortest_edge": 224}
_KINDS = {
    "vit": _Kind(_SQUARE, resample="bilinear"),
    "deit": _Kind({"height": 256, "width": 256}, 224, resample="bicubic"),
    "convnext": _Kind({"shortest_edge": 384}, own=frozenset({"crop_pct"})),
    "efficientnet": _Kind(
        {"height": 346, "width": 346}, own=frozenset({"rescale_offset", "include_top"})
    ),
    "bit": _Kind(_EDGE, 224, _CLIP, "bicubic"),
    "clip": _Kind(_EDGE, 224, _CLIP, "bicubic"),
}

_TYPES = ("image_processor_type", "feature_extractor_type")
_OTHERS = {
    *_TYPES, "processor_class", "_processor_class", "auto_map", "data_format", "return_tensors",
    "input_data_format", "device", "disable_grouping", "do_convert_rgb", "default_to_square",
    "_valid_processor_keys", "transformers_version",
}  # fmt: skip
"""Keys that change no pixel of an RGB image."""


class _Config(BaseModel):
    """What the processors read; None where a file leaves it to the kind's default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    do_resize: bool = True
    size: Side | dict[str, Side] | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None
    do_center_crop: bool | None = None
    crop_size: Side | dict[str, Side] | None = None
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    do_rescale: bool = True
    rescale_factor: Positive = 1 / 255
    rescale_offset: bool = False
    do_normalize: bool = True
    image_mean: Triple | None = None
    image_std: tuple[Positive, Positive, Positive] | None = None
    include_top: bool = True
    do_pad: Literal[False] = False


def is_hugging_face(fields: Mapping[str, Any]) -> bool:
    """Return whether a configuration names a processor."""
    return any(name in fields for name in _TYPES)


def hugging_face_preprocessing(fields: Mapping[str, Any]) -> Preprocessing:
    """Return what a processor does to an image. Raises `PreprocessorError` or `ValidationError`."""
    kind = _kind_of(fields)
    common = _Config.model_fields.keys() - set().union(*(other.own for other in _KINDS.values()))
    given = {name: value for name, value in fields.items() if value is not None}
    if unknown := sorted(given.keys() - _OTHERS - common - kind.own):
        raise PreprocessorError(f"has unknown keys: {', '.join(unknown)}")
    config = _Config.model_validate({k: v for k, v in given.items() if k not in _OTHERS})
    if not config.do_resize:
        raise PreprocessorError("do_resize is false, so images would keep any size")
    if config.resample is None and kind.resample is None:
        raise PreprocessorError(
            "does not say resample, whose default is another one in each release of transformers"
        )
    filter_ = kind.resample if config.resample is None else _FILTERS[config.resample]
    mean, std = _normalisation(config, kind)
    return Preprocessing.model_validate(
        _geometry(config, kind, fields)
        | {"interpolation": filter_, "mean": mean, "std": std, "offset": "down"}
    )


def _kind_of(fields: Mapping[str, Any]) -> _Kind:
    named = {str(fields[name]) for name in _TYPES if fields.get(name) is not None}
    kinds = {re.sub(r"(FeatureExtractor|ImageProcessor)(Fast|Pil)?$", "", name) for name in named}
    if len(kinds) != 1:
        raise PreprocessorError(f"names several processors: {', '.join(sorted(named))}")
    (name,) = kinds
    if name.lower() not in _KINDS:
        raise PreprocessorError(
            f"is of {sorted(named)[0]}, which is not known; give what it does as options (--fit, "
            "--resize, --mean, ...)"
        )
    return _KINDS[name.lower()]


def _geometry(config: _Config, kind: _Kind, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fit, resize and crop; a crop that is larger than the resized image is refused."""
    size = config.size or dict(kind.size)
    if isinstance(size, int):
        square = fields.get("default_to_square")
        square = "height" in kind.size if square is None else square
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    if set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise PreprocessorError(
            f"size has {', '.join(sorted(size)) or 'nothing'}, which is unknown"
        )
    edge = size.get("shortest_edge")
    if "crop_pct" in kind.own:
        return _convnext(edge, config)
    resize: Any = edge if edge is not None else (size["height"], size["width"])
    fit = "short_side" if edge is not None else "squash"
    wanted = kind.crop is not None if config.do_center_crop is None else config.do_center_crop
    if not wanted:
        if edge is not None:
            raise PreprocessorError(
                "do_center_crop is false, so images of other shapes would have other sizes"
            )
        return {"fit": fit, "resize": resize, "crop": resize}
    crop: Any = config.crop_size or kind.crop
    if isinstance(crop, dict):
        if set(crop) != {"height", "width"}:
            raise PreprocessorError(f"crop_size has {', '.join(sorted(crop))}, which is unknown")
        crop = crop["height"], crop["width"]
    if crop is None:
        raise PreprocessorError("do_center_crop is true, but crop_size is missing")
    return {"fit": fit, "resize": resize, "crop": crop}


def _convnext(edge: int | None, config: _Config) -> dict[str, Any]:
    if edge is None:
        raise PreprocessorError("size has no shortest_edge, which ConvNeXT's processor needs")
    if config.do_center_crop:
        raise PreprocessorError("do_center_crop and crop_pct both say what is cropped")
    if edge >= _WARPED_FROM:
        return {"fit": "squash", "resize": edge, "crop": edge}
    resize = int(edge / (224 / 256 if config.crop_pct is None else config.crop_pct))
    return {"fit": "short_side", "resize": resize, "crop": edge}


def _normalisation(config: _Config, kind: _Kind) -> tuple[list[float], list[float]]:
    """Return mean and std for pixel values from 0 to 1, of all that is done to them."""
    factor = config.rescale_factor if config.do_rescale else 1.0
    shift = 1.0 if config.do_rescale and config.rescale_offset else 0.0
    mean, std = list(kind.normalisation[0]), list(kind.normalisation[1])
    mean = list(config.image_mean or mean)
    std = stated = list(config.image_std or std)
    if not config.do_normalize:
        mean, std = [0.0] * 3, [1.0] * 3
    if "include_top" in kind.own and config.include_top:  # divides by it once more
        std = [one * other for one, other in zip(std, stated, strict=True)]
    return (
        [(shift + value) / (255 * factor) for value in mean],
        [value / (255 * factor) for value in std],
    )

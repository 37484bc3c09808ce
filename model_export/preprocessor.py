"""Reads how images are prepared from the files of timm and Hugging Face.

- timm: `config.json` as on the Hub, or the `pretrained_cfg` in it; as in
  `timm.data.transforms_factory.transforms_imagenet_eval`.
- Hugging Face: `preprocessor_config.json` of some processors (`hugging_face.py`).

A key that may change the pixels and is not known here is refused, as is what contradicts another.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_export.errors import PreprocessorError
from model_export.files import missing
from model_export.hugging_face import hugging_face_preprocessing, is_hugging_face
from service.contract import Interpolation, Preprocessing, Side, both_sides, shown_size
from service.wording import what_is_wrong

_MOST_BYTES = 2**20

Fixed = int | tuple[int, int] | None
"""The only input size that a network takes: a square's side, (height, width), or any."""

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
_Shape = tuple[Literal[3], Side, Side]


class _Timm(BaseModel):
    """What `timm` reads of a `pretrained_cfg` for images, with its defaults."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    input_size: _Shape = (3, 224, 224)
    test_input_size: _Shape | None = None
    interpolation: Interpolation = "bicubic"
    crop_pct: Fraction = 0.875
    test_crop_pct: Fraction | None = None
    crop_mode: Literal["center", "squash", "border"] = "center"
    crop_border_pixels: Literal[0] = 0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)


_TIMM_OTHERS = {
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag",
    "custom_load", "min_input_size", "fixed_input_size", "num_classes", "num_features",
    "label_offset", "label_names", "label_descriptions", "pool_size", "test_pool_size",
    "first_conv", "classifier", "global_pool", "license", "description", "origin_url",
    "paper_name", "paper_ids", "notes", "pretrained_cfg", "model_args",
}  # fmt: skip
"""Keys that change no pixel."""


def read_preprocessor(file: Path, fixed: Fixed = None) -> Preprocessing:
    """Return the preprocessing that a file describes, for a network of that `fixed` input size.

    Raises `PreprocessorError`, naming the file and the key, for what is unknown, contradicts
    something else, or can't be served.
    """
    try:
        fields = _fields(file)
        if is_hugging_face(fields):
            found = hugging_face_preprocessing(fields)
        else:
            found = _timm_preprocessing(fields, fixed)
    except PreprocessorError as error:
        raise PreprocessorError(f"{file}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][:1])) or "it"
        told = f"is {first['input']!r}: {what_is_wrong(first)}" if first["loc"] else first["msg"]
        raise PreprocessorError(f"{file}: {where} {told}") from error
    if fixed is not None and both_sides(fixed) != found.input_size:
        raise PreprocessorError(
            f"{file}: makes images of {shown_size(found.input_size)} (height x width), but the "
            f"network takes {shown_size(both_sides(fixed))}"
        )
    return found


def _fields(file: Path) -> dict[str, Any]:
    if reason := missing(file):
        raise PreprocessorError(reason.removeprefix(f"{file}: "))
    with file.open("rb") as stream:
        text = stream.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise PreprocessorError(f"has more than {_MOST_BYTES} bytes, too many for a configuration")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PreprocessorError("is not valid JSON") from error
    if not isinstance(fields, dict):
        raise PreprocessorError("is not a JSON object")
    return fields


def _timm_preprocessing(fields: dict[str, Any], fixed: Fixed) -> Preprocessing:
    inner = fields.get("pretrained_cfg", fields)
    if not isinstance(inner, dict) or not inner.keys() & _Timm.model_fields.keys():
        raise PreprocessorError(
            "is neither a preprocessor_config.json (it has no image_processor_type) nor timm's "
            "config.json (it has no pretrained_cfg)"
        )
    for names in (fields, inner):
        if unknown := sorted(names.keys() - _TIMM_OTHERS - _Timm.model_fields.keys()):
            raise PreprocessorError(f"has unknown keys: {', '.join(unknown)}")
    if inner is not fields and (twice := sorted(fields.keys() & _Timm.model_fields.keys())):
        raise PreprocessorError(f"has {', '.join(twice)} beside pretrained_cfg, which has them too")
    given = {name: inner[name] for name in _Timm.model_fields if inner.get(name) is not None}
    config = _Timm.model_validate(given)
    size, fraction = config.input_size[1:], config.crop_pct
    if config.test_input_size and fixed is not None and both_sides(fixed) != size:
        size = config.test_input_size[1:]
        fraction = config.test_crop_pct or fraction
    scaled = math.floor(size[0] / fraction), math.floor(size[1] / fraction)
    if config.crop_mode == "border":
        how = {"fit": "contain", "fill": [round(255 * value) for value in config.mean]}
    elif config.crop_mode == "squash":
        how = {"fit": "squash"}
    else:
        how = {"fit": "short_side" if scaled[0] == scaled[1] else "cover"}
    return Preprocessing.model_validate(
        {
            "resize": scaled,
            "crop": size,
            "interpolation": config.interpolation,
            "mean": config.mean,
            "std": config.std,
            "offset": "even",
            **how,
        }
    )

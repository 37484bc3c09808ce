"""Preprocessing from command-line options and what is known of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from model_export.errors import OptionsError
from model_export.options import PreprocessingOptions, check_crop
from model_export.weights import OfficialWeights
from service.contract import Preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESIZE, _CROP = 256, 224  # the usual evaluation of ImageNet classifiers


def preprocessing_of(
    options: PreprocessingOptions,
    official: OfficialWeights | None = None,
    *,
    side: int | None = None,
    trained: Mapping[str, Any] | None = None,
) -> Preprocessing:
    """Options first, then what belongs to the weights, then ImageNet's usual values.

    The weights are official ones, or were `trained` here with these values. `side` is that of a
    network which takes no other. Raises `OptionsError`.
    """
    usual = {
        "resize": official.resize if official else _RESIZE,
        "crop": official.crop if official else _CROP,
        "interpolation": official.interpolation if official else "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    } | dict(trained or {})
    usual_crop, usual_resize = usual["crop"], usual["resize"]
    side = options.input_size or side or usual_crop
    # Another input size keeps the part of the image that is seen.
    resize = options.resize or round(side * usual_resize / usual_crop)
    check_crop(side, resize)
    try:
        return Preprocessing(
            resize=resize,
            crop=side,
            interpolation=options.interpolation or usual["interpolation"],
            mean=options.mean or usual["mean"],
            std=options.std or usual["std"],
        )
    except ValidationError as error:  # of what the weights or the network bring
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise OptionsError(
            f"the preprocessing does not hold: {name} can't be {first['input']!r}"
        ) from error

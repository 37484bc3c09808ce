"""Determines the preprocessing from command-line options and from the weights."""

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
    """Return the preprocessing: by the options, else by the weights, else as usual for ImageNet.

    The weights may be official ones, or `trained` here with these values. `side` is the only input
    side that the network takes, if it is fixed. Raises `OptionsError`.
    """
    usual = {
        "resize": official.resize if official else _RESIZE,
        "crop": official.crop if official else _CROP,
        "interpolation": official.interpolation if official else "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    } | dict(trained or {})
    usual_crop, usual_resize = usual["crop"], usual["resize"]
    if side is not None and options.input_size not in {None, side}:
        raise OptionsError(
            f"--input-size {options.input_size}: the network takes images of {side} pixels only"
        )
    side = side or options.input_size or usual_crop
    # With another input size, the visible part of the image stays the same.
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
    except ValidationError as error:  # due to the weights or the network
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise OptionsError(
            f"the preprocessing is invalid: {name} can't be {first['input']!r}"
        ) from error

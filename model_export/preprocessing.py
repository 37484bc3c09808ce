"""Determines the preprocessing from command-line options and from the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from model_export.errors import OptionsError
from model_export.options import PreprocessingOptions, SizeOption, check_crop
from model_export.weights import OfficialWeights
from service.contract import Fit, Offset, Preprocessing, shown_size

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESIZE, _CROP = 256, 224  # the usual evaluation of ImageNet classifiers


def preprocessing_of(
    options: PreprocessingOptions,
    official: OfficialWeights | None = None,
    *,
    fixed: SizeOption | None = None,
    trained: Mapping[str, Any] | None = None,
    offset: Offset | None = None,
) -> Preprocessing:
    """Return the preprocessing: by the options, else by the weights, else as usual for ImageNet.

    The weights may be official ones, or `trained` here with these values. `fixed` is the only input
    size that the network takes, if there is one. With an `offset`, resizing and cropping are two
    steps, rounded like that unless the options say otherwise. Raises `OptionsError`.
    """
    usual = {
        "resize": official.resize if official else _RESIZE,
        "crop": official.crop if official else _CROP,
        "interpolation": official.interpolation if official else "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    } | dict(trained or {})
    if fixed is not None and options.input_size not in {None, fixed}:
        raise OptionsError(
            f"--input-size {shown_size(options.input_size or fixed)}: the network takes images of "
            f"{shown_size(fixed)} pixels only"
        )
    crop: SizeOption = options.input_size or fixed or usual["crop"]
    fit = options.fit or ("short_side" if isinstance(crop, int) else "cover")
    # With another input size, the visible part of the image stays the same.
    resize = options.resize or _resized(
        crop, fit, options.crop_pct, usual["resize"] / usual["crop"]
    )
    if fit != "contain":
        check_crop(crop, resize)
    contained = {"fill": options.fill, "position": options.position}
    mean, std = options.mean or usual["mean"], options.std or usual["std"]
    if options.rescale is not None:  # the contract's are for pixel values from 0 to 1
        mean, std = (tuple(v / (255 * options.rescale) for v in values) for values in (mean, std))
    try:
        return Preprocessing(
            resize=resize,
            crop=crop,
            interpolation=options.interpolation or usual["interpolation"],
            mean=mean,
            std=std,
            fit=fit,
            offset=options.offset or offset,
            **{name: value for name, value in contained.items() if value is not None},
        )
    except ValidationError as error:  # due to the weights or the network
        first = error.errors()[0]
        name = str((first["loc"] or ("it",))[0])
        raise OptionsError(
            f"the preprocessing is invalid: {name} can't be {first['input']!r}"
        ) from error


def _resized(crop: SizeOption, fit: Fit, crop_pct: float | None, usual: float) -> SizeOption:
    """Return what to resize to for a crop of that fraction of it, or as usual for that fit."""
    if crop_pct is not None:  # rounded as timm and Hugging Face do
        return _each(crop, lambda side: math.floor(side / crop_pct))
    if fit in {"squash", "contain"}:
        return crop
    return _each(crop, lambda side: round(side * usual))


def _each(size: SizeOption, change: Callable[[int], int]) -> SizeOption:
    return change(size) if isinstance(size, int) else (change(size[0]), change(size[1]))

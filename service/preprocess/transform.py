"""Resize and centre crop in one boxed resize.

`Resize(short side)` followed by `CenterCrop` equals a resize of the box of the source that the
crop would keep: a quarter less work, and no huge intermediate for a 1 x 10,000 image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.contract import Preprocessing

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A box in source pixels that becomes `side` x `side` pixels."""

    box: Box
    side: int


def resized_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return the size after resizing the short side to `short_side`, rounding the long one down.

    This is torchvision's rule (`torchvision.transforms.functional._compute_resized_output_size`).
    """
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def least_decoded_size(
    size: tuple[int, int], preprocessing: Preprocessing, ratio: float
) -> tuple[int, int] | None:
    """Return the smallest size at which an image may be decoded; None if the ratio is 0."""
    if not ratio:
        return None
    width, height = resized_size(*size, preprocessing.resize)
    return int(width * ratio), int(height * ratio)


def is_reduced(size: tuple[int, int], least: tuple[int, int] | None) -> bool:
    """Return whether a JPEG of this size is decoded at half its size or less."""
    return least is not None and min(size[0] // least[0], size[1] // least[1]) >= 2


def crop_of(width: int, height: int, preprocessing: Preprocessing) -> Crop:
    """Return the part of a `width` x `height` image that the model sees.

    Offsets are rounded like torchvision's `center_crop`, so that both have the same pixel grid.
    """
    side = preprocessing.crop
    new_width, new_height = resized_size(width, height, preprocessing.resize)
    left, top = round((new_width - side) / 2), round((new_height - side) / 2)
    x, y = width / new_width, height / new_height
    # Floats may end slightly outside the image, which Pillow refuses.
    box = (left * x, top * y, min((left + side) * x, width), min((top + side) * y, height))
    return Crop(box, side)


def transform(
    image: Image.Image,
    preprocessing: Preprocessing,
    size: tuple[int, int] | None = None,
    content: Box | None = None,
) -> NDArray[np.uint8]:
    """Resize and crop an upright RGB image to the model's uint8 [crop, crop, 3] input.

    For an image that was decoded at a reduced size, pass its real `size`, which determines the
    crop, and the box of its `content` within the decoded pixels.
    """
    left, top, right, bottom = content or (0, 0, *image.size)
    width, height = size or image.size
    crop = crop_of(width, height, preprocessing)
    x, y = (right - left) / width, (bottom - top) / height
    box = (
        left + crop.box[0] * x,
        top + crop.box[1] * y,
        min(left + crop.box[2] * x, right),
        min(top + crop.box[3] * y, bottom),
    )
    resized = image.resize(
        (crop.side, crop.side), _RESAMPLING[preprocessing.interpolation], box=box
    )
    return np.asarray(resized)

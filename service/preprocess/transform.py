"""Resize and crop as the contract says.

For the contracts of schema 2, a resize of the short side and the centre crop are one boxed resize
of the part of the source that the crop keeps: a quarter less work, and no huge intermediate for a
1 x 10,000 image. For all others they are two steps as in torchvision, timm and Hugging Face's
processors, whose pixels those models were trained with: the results are equal bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.contract import Preprocessing

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_BYTES_PER_PIXEL = 4  # of an RGB image in Pillow

_MOST_RESIZED = 2**20
"""Up to this many pixels, or four times the model's input, an image is resized whole before it is
cropped; one that is narrower than that allows is resized and cropped in one."""


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The part of a resized image that is kept, in its whole pixels, and where it is put.

    What it leaves of the model's input is filled.
    """

    left: int
    top: int
    width: int
    height: int
    at: tuple[int, int] = (0, 0)


def short_side_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return the size after resizing the short side to `short_side`, rounding the long one down.

    This is torchvision's rule (`torchvision.transforms.functional._compute_resized_output_size`).
    """
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def resized_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the width and height to which an image is resized.

    For `cover` and `contain` this is timm's rule (`timm.data.transforms.ResizeKeepRatio`).
    """
    to_height, to_width = preprocessing.resize_to
    if preprocessing.fit == "short_side":
        return short_side_size(width, height, to_height)
    if preprocessing.fit == "squash":
        return to_width, to_height
    ratios = height / to_height, width / to_width
    ratio = max(ratios) if preprocessing.fit == "contain" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def least_decoded_size(
    size: tuple[int, int], preprocessing: Preprocessing, ratio: float
) -> tuple[int, int] | None:
    """Return the smallest size at which an image may be decoded; None if the ratio is 0."""
    if not ratio:
        return None
    width, height = resized_size(*size, preprocessing)
    return int(width * ratio), int(height * ratio)


def is_reduced(size: tuple[int, int], least: tuple[int, int] | None) -> bool:
    """Return whether a JPEG of this size is decoded at half its size or less."""
    return least is not None and min(size[0] // least[0], size[1] // least[1]) >= 2


def is_input(width: int, height: int, preprocessing: Preprocessing) -> bool:
    """Return whether an image of this size is the model's input as it is."""
    return (height, width) == preprocessing.input_size and (
        width,
        height,
    ) == resized_size(width, height, preprocessing)


def held_bytes(size: tuple[int, int], preprocessing: Preprocessing) -> int:
    """Return how much memory a `size` (width, height) image takes between resize and crop."""
    resized = resized_size(*size, preprocessing)
    if not _is_in_two_steps(resized, preprocessing):
        return 0
    return _BYTES_PER_PIXEL * resized[0] * resized[1]


def kept_of(resized: tuple[int, int], preprocessing: Preprocessing) -> Kept:
    """Return what is kept of an image that was resized to this width and height.

    Offsets are rounded like torchvision's `center_crop` or as the contract says, so that the pixel
    grid is that of the transforms the model was trained with.
    """
    in_height, in_width = preprocessing.input_size
    left, width, at_left = _along(resized[0], in_width, preprocessing)
    top, height, at_top = _along(resized[1], in_height, preprocessing)
    return Kept(left, top, width, height, (at_left, at_top))


def _along(side: int, wanted: int, preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return where the kept part of a resized side begins, its length, and where it is put."""
    if side >= wanted:
        spare = side - wanted
        return spare // 2 if preprocessing.offset == "down" else round(spare / 2), wanted, 0
    return 0, side, 0 if preprocessing.position == "top_left" else (wanted - side) // 2


def source_box(width: int, height: int, preprocessing: Preprocessing) -> Box:
    """Return the part of a `width` x `height` image that the model sees."""
    new_width, new_height = resized = resized_size(width, height, preprocessing)
    kept = kept_of(resized, preprocessing)
    x, y = width / new_width, height / new_height
    # Floats may end slightly outside the image, which Pillow refuses.
    right, bottom = (kept.left + kept.width) * x, (kept.top + kept.height) * y
    return kept.left * x, kept.top * y, min(right, width), min(bottom, height)


def input_box(width: int, height: int, preprocessing: Preprocessing) -> Box:
    """Return where the model's input lies on a `width` x `height` image, in the image's pixels.

    It reaches beyond the image where the input is filled.
    """
    new_width, new_height = resized = resized_size(width, height, preprocessing)
    kept, (in_height, in_width) = kept_of(resized, preprocessing), preprocessing.input_size
    x, y = width / new_width, height / new_height
    left, top = kept.left - kept.at[0], kept.top - kept.at[1]
    return left * x, top * y, (left + in_width) * x, (top + in_height) * y


def transform(
    image: Image.Image,
    preprocessing: Preprocessing,
    size: tuple[int, int] | None = None,
    content: Box | None = None,
) -> NDArray[np.uint8]:
    """Resize and crop an upright RGB image to the model's uint8 [H, W, 3] input.

    For an image that was decoded at a reduced size, pass its real `size`, which determines the
    crop, and the box of its `content` within the decoded pixels.
    """
    size = size or image.size
    resized = resized_size(*size, preprocessing)
    kept = kept_of(resized, preprocessing)
    resampling = _RESAMPLING[preprocessing.interpolation]
    if content is None and size == image.size and _is_in_two_steps(resized, preprocessing):
        whole = image.resize(resized, resampling)
        part = whole.crop((kept.left, kept.top, kept.left + kept.width, kept.top + kept.height))
    else:
        box = _within(content or (0, 0, *image.size), size, source_box(*size, preprocessing))
        part = image.resize((kept.width, kept.height), resampling, box=box)
    height, width = preprocessing.input_size
    if part.size == (width, height):
        return np.asarray(part)
    filled = Image.new("RGB", (width, height), preprocessing.fill)
    filled.paste(part, kept.at)
    return np.asarray(filled)


def _within(content: Box, size: tuple[int, int], box: Box) -> Box:
    """Return a box of a `size` image in the pixels of a smaller one that shows it in `content`."""
    left, top, right, bottom = content
    x, y = (right - left) / size[0], (bottom - top) / size[1]
    return (
        left + box[0] * x,
        top + box[1] * y,
        min(left + box[2] * x, right),
        min(top + box[3] * y, bottom),
    )


def _is_in_two_steps(resized: tuple[int, int], preprocessing: Preprocessing) -> bool:
    height, width = preprocessing.input_size
    most = max(_MOST_RESIZED, 4 * height * width)
    return preprocessing.needs_schema_3 and resized[0] * resized[1] <= most

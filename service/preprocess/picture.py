"""An image as people look at it: upright, whole, and of a bounded size."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from service.contract import Preprocessing
from service.preprocess.decode import DecodePolicy, decoded, read
from service.preprocess.encoded import TURNS, turned_size

_REDUCING_GAP = 2.0
"""Pillow first averages whole pixels down to this many times the size: much faster, and as good."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An RGB picture in the orientation that the model sees, and the turn that is left to do."""

    image: Image.Image
    turn: Image.Transpose | None
    """Makes the picture upright if the model's contract ignores EXIF; None if it is upright."""

    def upright(self, drawn: Image.Image) -> Image.Image:
        """Return what was drawn on the picture as people look at it."""
        return drawn if self.turn is None else drawn.transpose(self.turn)


def bounded_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return a size of the same aspect whose long side is at most `longest` pixels."""
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


@contextmanager
def decoded_picture(
    data: bytes,
    preprocessing: Preprocessing,
    policy: DecodePolicy,
    longest: int,
    more_bytes: int,
) -> Generator[Picture]:
    """Yield an encoded image with a long side of at most `longest` pixels.

    The memory for decoding, and `more_bytes` for what the block does with it, is held until the
    block ends. Raises what `decode` does.
    """
    image = read(data, policy.max_image_pixels)
    turn = image.orientation if preprocessing.exif == "apply" else 1
    left = TURNS.get(image.orientation) if turn != image.orientation else None
    size = bounded_size(*turned_size(image.size, turn), longest)
    with decoded(image, turn, size, policy.memory, more_bytes) as (whole, content):
        if content is None and whole.size == size:
            yield Picture(whole, left)
        else:
            resampling = Image.Resampling.BICUBIC
            yield Picture(whole.resize(size, resampling, content, _REDUCING_GAP), left)

"""Makes a model file's golden cases: known images with a reference's answers."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_export.errors import ParityError
from model_export.reference import Reference
from service.contract import PROBABILITIES, GoldenPattern, GoldenPhoto, Preprocessing
from service.golden import golden_pattern, pixels_digest
from service.preprocess.decode import DecodePolicy, decode

# Of the first dozen seeds, those for which swapped colours, a missed rotation or a different resize
# change the built-in model's probabilities most, and rounding in a JPEG decoder does not.
_PATTERN_SEEDS = (4, 5)
_PHOTO_SEED = 3
_PHOTO_SIZE = (150, 110)  # as stored; neither side is a size that models take, so it is resized
_ORIENTATION, _TURNED_RIGHT = 0x0112, 6  # the EXIF tag, and its value for a quarter turn
_EXACT = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)


def golden_cases(
    reference: Reference, preprocessing: Preprocessing
) -> tuple[GoldenPattern | GoldenPhoto, ...]:
    """Return two patterns and a photo with `reference`'s probabilities for them.

    Raises `ParityError` if those are not finite.
    """
    photo = golden_photo()
    pixels = decode(photo, preprocessing, _EXACT).pixels
    patterns = [golden_pattern(seed, *preprocessing.input_size) for seed in _PATTERN_SEEDS]
    answers = reference(np.stack([*patterns, pixels]))[PROBABILITIES]
    if not np.isfinite(answers).all():
        raise ParityError("its answer to a golden case is not finite (NaN or infinity)")
    return (
        *(
            GoldenPattern(seed=seed, probabilities=_rounded(answer))
            for seed, answer in zip(_PATTERN_SEEDS, answers[:-1], strict=True)
        ),
        GoldenPhoto(
            data_base64=base64.b64encode(photo).decode(),
            pixels_sha256=pixels_digest(pixels),
            probabilities=_rounded(answers[-1]),
        ),
    )


def golden_photo() -> bytes:
    """Encode a pattern the way phones store photos: JPEG, subsampled chroma, EXIF rotation.

    It has a few KB and avoids using anyone's photo.
    """
    width, height = _PHOTO_SIZE
    image = Image.fromarray(golden_pattern(_PHOTO_SEED, width)[:height])
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED_RIGHT
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85, subsampling="4:2:0", exif=exif)
    return encoded.getvalue()


def _rounded(probabilities: NDArray[np.float32]) -> tuple[float, ...]:
    """Round to seven significant digits, the precision of float32."""
    return tuple(float(f"{value:.7g}") for value in probabilities)

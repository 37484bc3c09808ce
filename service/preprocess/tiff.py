"""TIFF (6.0, and BigTIFF): how its samples are stored, and what they mean.

libtiff and Pillow each interpret tags in their own way, so neither gets the file itself. They get
one with only the tags needed to unpack its strips or tiles (`tiff_samples`); the colours are
computed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.preprocess import tiff_tags as tags
from service.preprocess import tiff_ycbcr
from service.preprocess.color import from_palette, scale_table, to_rgb
from service.preprocess.encoded import EncodedImage, corrupt, unsupported
from service.preprocess.limits import check_size
from service.preprocess.tiff_packing import (
    ACCEPTED as COMPRESSIONS_ACCEPTED,
)
from service.preprocess.tiff_packing import COMPRESSIONS, JPEG, OTHER_COMPRESSIONS
from service.preprocess.tiff_samples import Samples, read_samples
from service.preprocess.tiff_tags import Directory, read_directory

_COLORS = {
    tags.WHITE_IS_ZERO: 1,
    tags.BLACK_IS_ZERO: 1,
    tags.RGB: 3,
    tags.PALETTE: 1,
    tags.CMYK: 4,
    tags.YCBCR: 3,
}
_OTHER_COLORS = {
    4: "a mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "raw sensor data",
    32844: "LogL", 32845: "LogLuv", 34892: "raw linear data",
}  # fmt: skip
_FORMATS = {2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
_BITS = {1, 2, 4, 8, 12, 16}
_MAX_SAMPLES = 8
# For computing colours, measured.
_BYTES_PER_PIXEL, _BYTES_PER_TRANSPARENT_PIXEL, _BYTES_PER_YCBCR_PIXEL = 10, 15, 20
_PREMULTIPLIED, _ALPHA = 1, 2  # values of ExtraSamples
_ACCEPTED = "grey, RGB, palette or CMYK with 1, 2, 4, 8, 12 or 16 bits, and YCbCr with 8 bits, are"


@dataclass(kw_only=True)
class TiffImage(EncodedImage):
    """A TIFF's first image."""

    samples: Samples
    photometric: int
    alpha: int  # a value of ExtraSamples, or 0
    alpha_at: int  # index among the samples
    palette: NDArray[np.uint8] | None = None
    block: tiff_ycbcr.Block | None = None  # for YCbCr

    @property
    def pixels(self) -> int:
        """Return the pixels of the image or of all its tiles, whichever has more."""
        return max(self.width * self.height, self.samples.tiled_pixels)

    def peak_bytes(self) -> int:
        """Estimate the peak memory of decoding, in bytes."""
        each = _BYTES_PER_TRANSPARENT_PIXEL if self.alpha else _BYTES_PER_PIXEL
        if self.block is not None:
            each = _BYTES_PER_YCBCR_PIXEL
        return self.samples.peak_bytes(each * self.width * self.height)

    def to_rgb(self) -> Image.Image:
        """Decode to RGB, composited on white."""
        values = self.samples.unpack()
        colors = self._colors(values)
        if not self.alpha:
            return Image.fromarray(colors)
        alpha = self._eight_bits(values[..., self.alpha_at])
        if self.alpha == _PREMULTIPLIED:
            white = 255 - alpha
            return Image.fromarray(np.minimum(colors, alpha[..., None]) + white[..., None])
        return to_rgb(Image.fromarray(np.dstack([colors, alpha])))

    def _colors(self, values: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Convert samples [height, width, samples] to RGB, uint8 [height, width, 3]."""
        if self.palette is not None:
            return np.asarray(from_palette(np.asarray(values[..., 0], np.uint8), self.palette))
        if self.block is not None:
            stored = np.asarray(values[..., :3], np.uint8)
            return tiff_ycbcr.to_rgb(stored, self.size, self.block)
        colors = self._eight_bits(values[..., : _COLORS[self.photometric]])
        if self.photometric == tags.WHITE_IS_ZERO:
            colors = 255 - colors
        if colors.shape[-1] == 1:
            return colors.repeat(3, axis=-1)
        if self.photometric == tags.CMYK:
            return np.asarray(Image.fromarray(colors, "CMYK").convert("RGB"))
        return colors

    def _eight_bits(self, values: NDArray[np.generic]) -> NDArray[np.uint8]:
        if self.samples.packing.bits == 8:
            return np.ascontiguousarray(values, np.uint8)
        scaled: NDArray[np.uint8] = scale_table(self.samples.packing.bits)[values]
        return scaled


def read(data: bytes, max_pixels: int) -> TiffImage:
    """Read a TIFF's structure. Raises `RequestError` if it is broken or unsupported."""
    directory = read_directory(data)
    width, height = (directory.number(tag, 0) for tag in (tags.WIDTH, tags.HEIGHT))
    if not width or not height:
        raise corrupt("it has no pixels or does not say how many")
    check_size(width, height, max_pixels)
    compression = directory.number(tags.COMPRESSION, 1)
    if compression not in COMPRESSIONS:
        name = OTHER_COMPRESSIONS.get(compression, f"number {compression}")
        raise unsupported(f"TIFFs with the compression {name}", COMPRESSIONS_ACCEPTED)
    count = directory.number(tags.SAMPLES, 1)
    if not 0 < count <= _MAX_SAMPLES:
        raise unsupported(f"TIFFs with {count} samples per pixel", _ACCEPTED)
    photometric = _photometric(directory, count)
    bits = _bits(directory, count)
    _check_meaning(directory, photometric, bits)
    alpha, alpha_at = _alpha(directory, photometric, count)
    block = None
    if photometric == tags.YCBCR and compression != JPEG:
        block = tiff_ycbcr.read_block(directory, count, bits)
    return TiffImage(
        width=width,
        height=height,
        orientation=_orientation(directory),
        samples=read_samples(
            directory, (width, height), count, bits, is_ycbcr=photometric == tags.YCBCR, block=block
        ),
        photometric=photometric,
        alpha=alpha,
        alpha_at=alpha_at,
        palette=_palette(directory, bits) if photometric == tags.PALETTE else None,
        block=block,
    )


def _photometric(directory: Directory, count: int) -> int:
    """Return what the samples mean; without the tag, use libtiff's default."""
    missing = tags.RGB if count >= 3 else tags.BLACK_IS_ZERO
    photometric = directory.number(tags.PHOTOMETRIC, missing)
    if photometric not in _COLORS:
        name = _OTHER_COLORS.get(photometric, f"kind {photometric}")
        raise unsupported(f"TIFFs whose colours are {name}", _ACCEPTED)
    if count < _COLORS[photometric]:
        raise corrupt(f"it has {count} samples per pixel, fewer than its colours need")
    return photometric


def _bits(directory: Directory, count: int) -> int:
    """Return the bits per sample, which must be the same for all samples."""
    bits = directory.numbers(tags.BITS, (1,))
    formats = set(directory.numbers(tags.SAMPLE_FORMAT, (1,)))
    for number, name in _FORMATS.items():
        if number in formats:
            raise unsupported(f"TIFFs with {bits[0]}-bit {name}", _ACCEPTED)
    if len(set(bits)) > 1 or bits[0] not in _BITS:
        told = ", ".join(str(value) for value in bits)
        raise unsupported(f"TIFFs with {told} bits per sample", _ACCEPTED)
    if len(bits) not in {1, count} and len(bits) < count:
        raise corrupt(f"it gives the bits of {len(bits)} samples but has {count}")
    return bits[0]


def _check_meaning(directory: Directory, photometric: int, bits: int) -> None:
    """Refuse colours that would come out wrong, naming them."""
    if photometric == tags.PALETTE and bits > 8:
        raise unsupported(f"TIFFs with {bits}-bit palettes", "palettes of up to 8 bits are")
    if photometric == tags.CMYK and directory.number(tags.INK_SET, 1) != 1:
        raise unsupported("TIFFs with inks other than CMYK", _ACCEPTED)


def _alpha(directory: Directory, photometric: int, count: int) -> tuple[int, int]:
    """Return the kind of alpha, or 0 for none, and its index among the samples."""
    first = _COLORS[photometric]
    # Older writers of RGBA omit the tag, and viewers still treat the fourth sample as alpha.
    missing = _ALPHA if (photometric, count) == (tags.RGB, 4) else 0
    kinds = directory.numbers(tags.EXTRA_SAMPLES, (missing,))[: count - first]
    for at, kind in enumerate(kinds, first):
        if kind in {_PREMULTIPLIED, _ALPHA}:
            return kind, at
    return 0, 0


def _palette(directory: Directory, bits: int) -> NDArray[np.uint8]:
    """Return the palette, uint8 [256, 3], padded with black."""
    stored = np.array(directory.numbers(tags.COLOR_MAP, (0,), most=3 << 8))
    if len(stored) != 3 << bits:
        raise corrupt("the length of its palette does not match its bits per sample")
    # Entries have 16 bits, but some writers only use 8 of them.
    eight = stored >> 8 if stored.max() > 255 else stored
    palette = np.zeros((256, 3), np.uint8)
    palette[: 1 << bits] = eight.reshape(3, -1).T
    return palette


def _orientation(directory: Directory) -> int:
    if directory.entries.get(tags.ORIENTATION, (0, 0, 0))[1] != 1:
        return 1
    value = directory.number(tags.ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1

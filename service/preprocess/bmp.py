"""BMP: headers of Windows 2 to 5 and OS/2, with palettes, bit masks and run lengths.

Decoded here, since Pillow supports few masks, takes unset alpha at face value, and loses empty rows
of run lengths. The format is in Microsoft's "Bitmap Header Types" and MS-WMF 2.2.2.9.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.preprocess.color import from_palette, scale_table, to_rgb
from service.preprocess.encoded import EncodedImage, corrupt, truncated, unsupported
from service.preprocess.limits import check_size
from service.preprocess.run_lengths import unpack

SIGNATURE = rb"BM.{12}[\x0c\x10-\x40\x6c\x7c]\0\0\0"
"""A pattern: the letters "BM" with a valid header size, since the letters alone say too little."""

_FILE_HEADER = 14
_CORE, _INFO, _WITH_MASKS, _WITH_ALPHA_MASK, _LARGEST_OS2 = 12, 40, 52, 56, 64  # header sizes
_OF_WINDOWS = {_INFO, _WITH_MASKS, _WITH_ALPHA_MASK}  # others up to 64 are OS/2's, of any length
_RGB, _RLE8, _RLE4, _MASKS, _ALPHA_MASKS = 0, 1, 2, 3, 6  # compression methods
_KINDS = {
    _RGB: {1, 2, 4, 8, 16, 24, 32},
    _RLE8: {8},
    _RLE4: {4},
    _MASKS: {16, 32},
    _ALPHA_MASKS: {16, 32},
}
_OTHER_KINDS = {4: "an embedded JPEG", 5: "an embedded PNG"}
_OTHER_OS2_KINDS = {3: "Huffman codes", 4: "24-bit run lengths"}
_555 = (0x7C00, 0x03E0, 0x001F, 0)
_888 = (0xFF0000, 0xFF00, 0xFF, 0)
_BYTES_PER_PIXEL, _BYTES_PER_MASKED_PIXEL = 12, 24  # measured

_Masks = tuple[int, int, int, int]
"""Bits of red, green, blue and alpha in a pixel; 0 for a missing channel."""


@dataclass(kw_only=True)
class BmpImage(EncodedImage):
    """A bitmap whose pixels begin at the offset `start` in the file."""

    data: bytes = field(repr=False)
    start: int
    bits: int
    compression: int
    top_down: bool
    palette: NDArray[np.uint8]
    masks: _Masks

    @property
    def is_in_runs(self) -> bool:
        """Return whether its pixels are compressed as run lengths."""
        return self.compression in {_RLE8, _RLE4}

    def peak_bytes(self) -> int:
        """Estimate the peak memory of decoding, in bytes."""
        each = _BYTES_PER_MASKED_PIXEL if self.bits in {16, 32} else _BYTES_PER_PIXEL
        return self.pixels * each

    def to_rgb(self) -> Image.Image:
        """Decode to RGB, composited on white if there is alpha."""
        if self.is_in_runs:
            data = memoryview(self.data)[self.start :]
            return self._from_palette(unpack(data, self.size, four_bits=self.bits == 4))
        if self.bits <= 8:
            return self._from_palette(self._indices())
        if self.bits == 24 or (self.bits, self.masks) == (32, _888):
            rows, form = self._rows(), "BGR" if self.bits == 24 else "BGRX"
            order = 1 if self.top_down else -1
            return Image.frombytes("RGB", self.size, rows, "raw", form, rows.shape[1], order)
        colors = self._masked()
        if not self.top_down:
            colors = colors[::-1]
        return to_rgb(Image.fromarray(np.ascontiguousarray(colors)))

    def _from_palette(self, indices: NDArray[np.uint8]) -> Image.Image:
        picture = from_palette(indices, self.palette)
        return picture if self.top_down else picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)

    def _rows(self) -> NDArray[np.uint8]:
        """Return the bytes of each row, padded to a multiple of four."""
        stride = (self.width * self.bits + 31) // 32 * 4
        # The last row may lack its padding.
        missing = self.start + stride * self.height - len(self.data)
        if missing > stride - (self.width * self.bits + 7) // 8:
            raise truncated()
        data = self.data + bytes(missing) if missing > 0 else self.data
        flat = np.frombuffer(data, np.uint8, stride * self.height, self.start)
        return flat.reshape(self.height, stride)

    def _indices(self) -> NDArray[np.uint8]:
        rows = self._rows()
        if self.bits < 8:
            shifts = np.arange(8 - self.bits, -1, -self.bits, dtype=np.uint8)
            mask = np.uint8((1 << self.bits) - 1)
            rows = (rows[..., None] >> shifts & mask).reshape(self.height, -1)
        return rows[:, : self.width]

    def _masked(self) -> NDArray[np.uint8]:
        """Return RGB or RGBA from 16- or 32-bit pixels, extracting each channel by its mask."""
        values = self._rows().view(f"<u{self.bits // 8}")[:, : self.width]
        # Programs without alpha support leave it 0 everywhere, whatever their header says.
        masks = self.masks if (values & self.masks[3]).any() else self.masks[:3]
        return np.stack([_channel(values, mask) for mask in masks], axis=-1)


def read(data: bytes, max_pixels: int) -> BmpImage:
    """Read a bitmap's header. Raises `RequestError` if it is broken or unsupported."""
    start, header = struct.unpack_from("<II", data, 10)
    if header == _CORE:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression, used = _RGB, 0
    else:
        fields = data[18 : _FILE_HEADER + min(header, _INFO)].ljust(_INFO, b"\0")
        width, height, _, bits, compression, _, _, _, used = struct.unpack_from(
            "<iiHHIIiiI", fields
        )
    _check_kind(header, bits, compression)
    if width <= 0 or not height:
        raise corrupt("it has no pixels: its width is not positive, or its height is 0")
    check_size(width, abs(height), max_pixels)
    palette_at = _FILE_HEADER + header
    masks = _888 if bits == 32 else _555
    if compression in {_MASKS, _ALPHA_MASKS}:
        masks = _read_masks(data, header, bits, compression)
        if header == _INFO:
            palette_at += 12 if compression == _MASKS else 16
    palette, palette_end = _palette(data, palette_at, start, header, bits, used)
    return BmpImage(
        width=width,
        height=abs(height),
        data=data,
        start=start if start >= palette_at else palette_end,
        bits=bits,
        compression=compression,
        top_down=height < 0,
        palette=palette,
        masks=masks,
    )


def _check_kind(header: int, bits: int, compression: int) -> None:
    accepted = "bitmaps with 1, 2, 4, 8, 16, 24 or 32 bits per pixel, or run lengths, are"
    is_os2 = header <= _LARGEST_OS2 and header not in _OF_WINDOWS
    if compression not in _KINDS or (is_os2 and compression > _RLE4):
        name = (_OTHER_OS2_KINDS if is_os2 else _OTHER_KINDS).get(compression, "unknown")
        raise unsupported(f"bitmaps with compression {compression} ({name})", accepted)
    if bits not in _KINDS[compression]:
        raise unsupported(
            f"bitmaps with {bits} bits per pixel and compression {compression}", accepted
        )


def _read_masks(data: bytes, header: int, bits: int, compression: int) -> _Masks:
    """Return the masks, which are part of larger headers and follow one of 40 bytes."""
    red, green, blue = struct.unpack_from("<III", data, _FILE_HEADER + _INFO)
    alpha = 0
    if header >= _WITH_ALPHA_MASK or compression == _ALPHA_MASKS:
        (alpha,) = struct.unpack_from("<I", data, _FILE_HEADER + _INFO + 12)
    masks = (red, green, blue, alpha)
    for mask in masks:
        highest = mask + (mask & -mask)
        if highest & (highest - 1) or mask >> bits:
            raise unsupported(
                f"bitmaps with the masks {', '.join(f'{mask:#x}' for mask in masks)}",
                "masks of contiguous bits are",
            )
    return masks


def _channel(values: NDArray[np.uint16 | np.uint32], mask: int) -> NDArray[np.uint8]:
    """Return the masked bits of each pixel, scaled to 8 bits; 0 for an empty mask."""
    shift = (mask & -mask).bit_length() - 1 if mask else 0
    largest = mask >> shift
    bits = (values & mask) >> shift
    if largest in {0, 255}:
        return bits.astype(np.uint8)
    if largest > 65_535:  # the top 8 of that many bits are exact enough; a table would be huge
        return (bits >> largest.bit_length() - 8).astype(np.uint8)
    scaled: NDArray[np.uint8] = scale_table(largest.bit_length())[bits]
    return scaled


def _palette(
    data: bytes, at: int, start: int, header: int, bits: int, used: int
) -> tuple[NDArray[np.uint8], int]:
    """Return the palette as RGB, padded with black, and the offset of its end."""
    each = 3 if header == _CORE else 4
    count = min(used or 1 << bits, 1 << bits) if bits <= 8 else used
    end = at + each * count
    if start >= at:
        end = min(end, start)
    palette = np.zeros((256, 3), np.uint8)
    if bits <= 8:
        count = max(0, min(end, len(data)) - at) // each
        stored = np.frombuffer(data, np.uint8, each * count, at).reshape(count, each)
        palette[:count] = stored[:, 2::-1]
    return palette, end

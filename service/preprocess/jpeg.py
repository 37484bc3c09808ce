"""JPEG (ITU-T T.81): which parts of a file the decoder gets, and whether pixels are missing.

EXIF, XMP, profiles, comments and what phones append to the picture are withheld from the decoder:
Pillow would go through it all in Python and look for further pictures.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from service.preprocess.color import to_rgb
from service.preprocess.encoded import (
    MAX_PIECES,
    EncodedImage,
    corrupt,
    open_as,
    truncated,
    unsupported,
)
from service.preprocess.jpeg_structure import (
    ACCEPTED,
    END,
    INTERVAL,
    MOST_PIECES_OF_PART,
    START,
    START_OF_SCAN,
    is_in_scans,
    read_end,
    read_head,
)
from service.preprocess.limits import check_size
from service.preprocess.plain_jpeg import BEFORE_END, UNDOCUMENTED

SIGNATURE = b"\xff\xd8\xff"

_LINES = b"\xff\xdc"  # marks a height that follows the pixels
# Arbitrary codes, which become pixels if any are missing and are ignored after the last pixel.
_CODES = bytes(i * 89 % 251 for i in range(1, 251))
# libjpeg's warnings, of which only the first is reported: pixels are missing, their codes are
# damaged, or no pixel is affected. Anything else is an error, or something simplejpeg can't do.
_MISSING = re.compile("premature end|instead of RST")
_DAMAGED = re.compile("bad (Huffman|arithmetic) code")
_WARNING = re.compile("Corrupt JPEG data|Unknown Adobe|Inconsistent progression|.*SOS parameters")
_RESTARTS = [bytes([0xFF, 0xD0 | number]) for number in range(8)]
_CMYK = 4  # channels
# Memory of libjpeg and Pillow per pixel, measured. With several scans, all coefficients are kept
# until the last one, at full size even if the image is decoded at a reduced one.
BYTES_PER_PIXEL = 8
"""Most bytes that decoding takes per decoded pixel; CMYK takes two more."""

_BYTES_PER_COEFFICIENT = 2
_ROWS_AT_ONCE = 256


@dataclass(kw_only=True)
class JpegImage(EncodedImage):
    """A JPEG, which can be decoded at 1/2, 1/4 or 1/8 of its size."""

    data: bytes = field(repr=False)
    channels: int
    in_scans: bool  # in several scans, each over all pixels
    least_size: tuple[int, int] | None = None  # if it will be reduced
    reduced_size: tuple[int, int] | None = None

    @property
    def decoded_size(self) -> tuple[int, int]:
        """Return width and height of the result of `to_rgb`."""
        return self.reduced_size or self.size

    def reduce(self, least: tuple[int, int]) -> tuple[float, float] | None:
        """Set the image to be decoded at a smaller size, if enough pixels remain."""
        image = open_as("JPEG", self.data, self.size)
        drafted = image.draft(image.mode, least)
        if drafted is None or image.size == self.size:
            return None
        self.least_size, self.reduced_size = least, image.size
        _, (_, _, width, height) = drafted
        return width, height

    def peak_bytes(self) -> int:
        """Estimate the peak memory of decoding, in bytes."""
        width, height = self.decoded_size
        each = BYTES_PER_PIXEL + 2 * (self.channels == _CMYK)
        kept = _BYTES_PER_COEFFICIENT * self.channels if self.in_scans else 0
        # The file, and a copy with codes added to detect missing pixels.
        return 2 * len(self.data) + each * width * height + kept * self.width * self.height

    def to_rgb(self) -> Image.Image:
        """Decode to RGB, twice if the decoder's warning may not affect any pixel.

        Raises `TruncatedImageError` if data for some pixels is missing, whether or not the image
        has an end marker: libjpeg makes them grey, with a warning that only simplejpeg raises.
        Damaged codes raise `CorruptImageError`; other warnings, as about bytes between segments,
        affect no pixel and are no reason to refuse. Progressive images that lack their last
        refinements count as complete.
        """
        (width, height), is_cmyk = self.decoded_size, self.channels == _CMYK
        pixels = np.empty((height, width, 4 if is_cmyk else 3), np.uint8)
        warning = self._decode(self.data, pixels)
        if warning and not self._is_of_no_pixel(warning):
            if not _WARNING.match(warning):
                return to_rgb(self._whole_by_pillow())
            found = zlib.crc32(pixels.data)
            self._decode(self._with_more(), pixels, strict=False)
            if zlib.crc32(pixels.data) != found:
                raise truncated()
        if is_cmyk:  # inverted, as first written by Photoshop and now by all encoders
            return to_rgb(Image.fromarray(np.subtract(255, pixels, out=pixels), "CMYK"))
        return Image.fromarray(pixels)

    def check_whole(self) -> None:
        """Raise what `to_rgb` raises for a bad image, decoding at 1/8 size if that suffices.

        That goes through all codes, but only decodes brightness, unless the image is CMYK.
        """
        least = np.empty((-(-self.height // 8), -(-self.width // 8), 4), np.uint8)
        warning = self._decode(self.data, least, "CMYK" if self.channels == _CMYK else "GRAY")
        if warning and not self._is_of_no_pixel(warning):
            self.to_rgb()

    def _decode(
        self, data: bytes, pixels: NDArray[np.uint8], colors: str = "", *, strict: bool = True
    ) -> str:
        """Decode into `pixels` as RGB or CMYK, or as `colors`.

        Returns the first warning or the error, or "". If not `strict`, warnings are ignored and
        errors raised.
        """
        colors = colors or ("CMYK" if self.channels == _CMYK else "RGB")
        least = (0, 0) if pixels.shape[:2] == (self.height, self.width) else pixels.shape[:2]
        try:
            simplejpeg.decode_jpeg(
                data, colors, min_height=least[0], min_width=least[1], buffer=pixels, strict=strict
            )
        except UNDOCUMENTED as error:
            if not strict:
                raise
            return repr(error) if not isinstance(error, ValueError) else str(error)
        return ""

    def _is_of_no_pixel(self, warning: str) -> bool:
        """Return whether the first warning of decoding proves that no pixel is missing.

        Raises `TruncatedImageError` or `CorruptImageError` if it says that some are missing or bad.
        """
        if _MISSING.search(warning):
            raise truncated()
        if _DAMAGED.search(warning):
            raise corrupt("the codes of some of its pixels are damaged")
        # If all pixels are in one piece, all have been read by then.
        return BEFORE_END in warning and not self.in_scans and INTERVAL not in self.data

    def _with_more(self) -> bytes:
        """Return the image with codes appended, which change its pixels if some are missing.

        If a restart is due, the decoder looks for the one that follows the last.
        """
        scan = self.data.rindex(START_OF_SCAN)
        last = max(self.data.rfind(restart, scan) for restart in _RESTARTS)
        due = self.data[last + 1] + 1 if last >= 0 else 0
        more = b"".join(_CODES + _RESTARTS[(due + i) & 7] for i in range(8))
        return self.data.removesuffix(END) + more + _CODES + END

    def _whole_by_pillow(self) -> Image.Image:
        """Decode twice with Pillow. Raises `TruncatedImageError` if pixels are missing."""
        found = _checksum(self._by_pillow(self.data))
        image = self._by_pillow(self._with_more())
        if _checksum(image) != found:
            raise truncated()
        return image

    def _by_pillow(self, data: bytes) -> Image.Image:
        image = open_as("JPEG", data, self.size)
        if self.least_size is not None:
            image.draft(image.mode, self.least_size)
        image.load()
        return image


def _checksum(image: Image.Image) -> int:
    """Return a checksum of the pixels, copying only some rows at a time."""
    checksum = 0
    for top in range(0, image.height, _ROWS_AT_ONCE):
        rows = image.crop((0, top, image.width, min(top + _ROWS_AT_ONCE, image.height)))
        checksum = zlib.crc32(rows.tobytes(), checksum)
    return checksum


def read(data: bytes, max_pixels: int, most_pieces: int = MAX_PIECES) -> JpegImage:
    """Read a JPEG's structure. Raises `RequestError` if it is broken or unsupported."""
    head = read_head(data, most_pieces)
    height, width, channels = struct.unpack_from(">HHB", head.frame, 5)
    if width and not height and _LINES in data:
        raise unsupported("JPEGs with their height after their pixels (DNL)", ACCEPTED)
    if not width or not height:
        raise corrupt("it has no pixels or does not say how many")
    check_size(width, height, max_pixels)
    end, has_end = read_end(data, head, channels, most_pieces)
    parts: list[bytes | memoryview] = [START, *head.kept]
    parts += [memoryview(data)[head.scan : end], b"" if has_end else END]
    return JpegImage(
        width=width,
        height=height,
        orientation=head.orientation or 1,
        data=b"".join(parts),
        channels=channels,
        in_scans=is_in_scans(data, head, channels),
    )


def check_part(part: bytes, tables: bytes, sizes: set[tuple[int, int]], channels: int) -> None:
    """Check that a JPEG part of another file's image is complete and has the expected size.

    It may lack tables, which are then taken from `tables`, the result of `read_tables`. Raises
    `RequestError`, or whatever a decoding library raises for bad data.
    """
    joined = tables.removesuffix(END) + part.removeprefix(START) if tables else part
    image = read(joined, sys.maxsize, 2 * MOST_PIECES_OF_PART)
    if image.size not in sizes or image.channels != channels:
        raise corrupt("the size of one of its parts differs from its header")
    image.check_whole()

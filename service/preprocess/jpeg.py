"""JPEG (ITU-T T.81): what of a file the decoder gets, and whether all its pixels are there.

EXIF, XMP, profiles, comments and what phones put behind the picture are left out of what the
decoder gets: Pillow would go through it all in Python, and look for further pictures.
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
# Of some pixels, if any are missing; behind the last ones they are nothing.
_CODES = bytes(i * 89 % 251 for i in range(1, 251))
# What libjpeg warns of (and only the first of it is told): pixels are missing, or they are of
# damaged codes, or it is of no pixel. All else is an error, or what simplejpeg can't do.
_MISSING = re.compile("premature end|instead of RST")
_DAMAGED = re.compile("bad (Huffman|arithmetic) code")
_WARNING = re.compile("Corrupt JPEG data|Unknown Adobe|Inconsistent progression|.*SOS parameters")
_RESTARTS = [bytes([0xFF, 0xD0 | number]) for number in range(8)]
_CMYK = 4  # channels
# What libjpeg and Pillow take for each pixel, measured; in several scans all coefficients are kept
# until the last one, of the full size also where the image is decoded at a reduced one.
BYTES_PER_PIXEL = 8
"""At most, of an image that is decoded at its full size; of CMYK two more."""

_BYTES_PER_COEFFICIENT = 2
_ROWS_AT_ONCE = 256


@dataclass(kw_only=True)
class JpegImage(EncodedImage):
    """A JPEG, which may be decoded at 1/2, 1/4 or 1/8 of its size."""

    data: bytes = field(repr=False)
    channels: int
    in_scans: bool  # several, each over all pixels
    least_size: tuple[int, int] | None = None  # if it is to be reduced
    reduced_size: tuple[int, int] | None = None

    @property
    def decoded_size(self) -> tuple[int, int]:
        """Width and height of what `to_rgb` gives."""
        return self.reduced_size or self.size

    def reduce(self, least: tuple[int, int]) -> tuple[float, float] | None:
        """Have it decoded smaller, where enough pixels remain."""
        image = open_as("JPEG", self.data, self.size)
        drafted = image.draft(image.mode, least)
        if drafted is None or image.size == self.size:
            return None
        self.least_size, self.reduced_size = least, image.size
        _, (_, _, width, height) = drafted
        return width, height

    def peak_bytes(self) -> int:
        """Estimate the peak of memory that decoding takes."""
        width, height = self.decoded_size
        each = BYTES_PER_PIXEL + 2 * (self.channels == _CMYK)
        kept = _BYTES_PER_COEFFICIENT * self.channels if self.in_scans else 0
        # The file, and once more with what is added to see if any pixel is missing.
        return 2 * len(self.data) + each * width * height + kept * self.width * self.height

    def to_rgb(self) -> Image.Image:
        """Decode to RGB, twice where the decoder warns of something that may be no pixel's.

        Raises `TruncatedImageError` where data are missing for some pixels, whether or not the
        image's end is marked: libjpeg makes grey of them, with a warning that only simplejpeg
        raises. Warnings of damaged codes are raised as `CorruptImageError`; others, as of bytes
        between segments, are of no pixel, and no reason to refuse. Progressive images whose last
        refinements were left out count as whole.
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
        if is_cmyk:  # which Photoshop inverts, and all have followed it
            return to_rgb(Image.fromarray(np.subtract(255, pixels, out=pixels), "CMYK"))
        return Image.fromarray(pixels)

    def check_whole(self) -> None:
        """Refuse an image as `to_rgb` does; made as small as may be where that is enough.

        All codes are gone through for that, and of the colours nothing but brightness is made.
        """
        least = np.empty((-(-self.height // 8), -(-self.width // 8), 4), np.uint8)
        warning = self._decode(self.data, least, "CMYK" if self.channels == _CMYK else "GRAY")
        if warning and not self._is_of_no_pixel(warning):
            self.to_rgb()

    def _decode(
        self, data: bytes, pixels: NDArray[np.uint8], colors: str = "", *, strict: bool = True
    ) -> str:
        """Decode into pixels of RGB or CMYK, or of the colours said.

        Returns the first warning or the error, or "". Where not `strict`, warnings are passed over,
        and errors raised.
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
        """Return whether no pixel can be missing, by the first warning of decoding the image.

        Raises `TruncatedImageError` or `CorruptImageError` where it tells of some that are.
        """
        if _MISSING.search(warning):
            raise truncated()
        if _DAMAGED.search(warning):
            raise corrupt("the codes of some of its pixels are damaged")
        # Where all pixels are in one piece, all were read by then.
        return BEFORE_END in warning and not self.in_scans and INTERVAL not in self.data

    def _with_more(self) -> bytes:
        """Return the image with further codes at its end: they change pixels if some are missing.

        Where a restart is due, the decoder looks for the one that follows the last.
        """
        scan = self.data.rindex(START_OF_SCAN)
        last = max(self.data.rfind(restart, scan) for restart in _RESTARTS)
        due = self.data[last + 1] + 1 if last >= 0 else 0
        more = b"".join(_CODES + _RESTARTS[(due + i) & 7] for i in range(8))
        return self.data.removesuffix(END) + more + _CODES + END

    def _whole_by_pillow(self) -> Image.Image:
        """Decode with Pillow, twice. Raises `TruncatedImageError` where pixels are missing."""
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
    """Return a checksum of the pixels, which are copied some rows at a time."""
    checksum = 0
    for top in range(0, image.height, _ROWS_AT_ONCE):
        rows = image.crop((0, top, image.width, min(top + _ROWS_AT_ONCE, image.height)))
        checksum = zlib.crc32(rows.tobytes(), checksum)
    return checksum


def read(data: bytes, max_pixels: int, most_pieces: int = MAX_PIECES) -> JpegImage:
    """Read a JPEG's structure. Raises `RequestError` where it is broken or not supported."""
    head = read_head(data, most_pieces)
    height, width, channels = struct.unpack_from(">HHB", head.frame, 5)
    if width and not height and _LINES in data:
        raise unsupported("JPEGs that tell their height behind their pixels (DNL)", ACCEPTED)
    if not width or not height:
        raise corrupt("it has no pixels, or does not say how many")
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
    """Refuse a JPEG that is part of another file's image if it is not what that says, or not whole.

    It may lack tables, which are then as `read_tables` of their structure returns them. Raises
    `RequestError`, or whatever a decoding library makes of bad data.
    """
    joined = tables.removesuffix(END) + part.removeprefix(START) if tables else part
    image = read(joined, sys.maxsize, 2 * MOST_PIECES_OF_PART)
    if image.size not in sizes or image.channels != channels:
        raise corrupt("a part of it is of another size than its header says")
    image.check_whole()

"""JPEG (ITU-T T.81): its segments up to the pixels, and the scans that contain the pixels.

EXIF, XMP, profiles, comments and what phones append to the picture are withheld from the decoder:
Pillow would go through it all in Python and look for further pictures.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from service.errors import ImageTooLargeError
from service.preprocess import exif
from service.preprocess.color import to_rgb
from service.preprocess.encoded import (
    MAX_PIECES,
    EncodedImage,
    corrupt,
    open_as,
    truncated,
    unsupported,
)
from service.preprocess.limits import check_size
from service.preprocess.plain_jpeg import BEFORE_END, UNDOCUMENTED

SIGNATURE = b"\xff\xd8\xff"

_START, _END, _LINES = b"\xff\xd8", b"\xff\xd9", b"\xff\xdc"
_START_OF_SCAN, _INTERVAL = b"\xff\xda", b"\xff\xdd"
_APP0, _EXIF, _ADOBE, _SCAN, _ARITHMETIC = 0xE0, 0xE1, 0xEE, 0xDA, 0xCC
# Only its presence matters, and the decoder warns about odd versions.
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_LEAST_ADOBE = 16  # bytes
_TABLES = {0xC4, 0xDB, 0xDD, _ARITHMETIC}  # codes, quantisation, the restart interval
# Arbitrary codes, which become pixels if any are missing and are ignored after the last pixel.
_CODES = bytes(i * 89 % 251 for i in range(1, 251))
# libjpeg's warnings, of which only the first is reported: pixels are missing, their codes are
# damaged, or no pixel is affected. Anything else is an error, or something simplejpeg can't do.
_MISSING = re.compile("premature end|instead of RST")
_DAMAGED = re.compile("bad (Huffman|arithmetic) code")
_WARNING = re.compile("Corrupt JPEG data|Unknown Adobe|Inconsistent progression|.*SOS parameters")
_RESTARTS = [bytes([0xFF, 0xD0 | number]) for number in range(8)]
_FILL = re.compile(rb"\xff+", re.DOTALL)  # fill bytes that encoders may put before a marker
# Within a scan, a 0 after FF is pixel data, and eight markers are restarts.
_AFTER_SCAN = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)

_PROGRESSIVE = {0xC2, 0xCA}
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA}  # what libjpeg-turbo decodes
_OTHER_FRAMES = {
    0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical",
    0xCB: "lossless arithmetic", 0xCD: "hierarchical", 0xCE: "hierarchical",
    0xCF: "hierarchical", 0xF7: "JPEG-LS",
}  # fmt: skip
_ACCEPTED = "JPEGs with 8 bits and 1, 3 or 4 colour channels are"

# Limits for a JPEG that is one of many parts of another file's image: encoders write some ten
# segments. All tables that a JPEG can have take 2.8 KB.
_MOST_PIECES_OF_PART, _MOST_BYTES_OF_TABLES = 64, 4096
_EMPTY_SCAN = b"\xff\xda\0\2"

# Each scan goes over all pixels. Encoders write ten scans, or some twenty when they aim for the
# smallest file.
_MAX_SCANS = 32
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
        return BEFORE_END in warning and not self.in_scans and _INTERVAL not in self.data

    def _with_more(self) -> bytes:
        """Return the image with codes appended, which change its pixels if some are missing.

        If a restart is due, the decoder looks for the one that follows the last.
        """
        scan = self.data.rindex(_START_OF_SCAN)
        last = max(self.data.rfind(restart, scan) for restart in _RESTARTS)
        due = self.data[last + 1] + 1 if last >= 0 else 0
        more = b"".join(_CODES + _RESTARTS[(due + i) & 7] for i in range(8))
        return self.data.removesuffix(_END) + more + _CODES + _END

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


@dataclass
class _Head:
    """Everything before the pixels."""

    kept: list[bytes] = field(default_factory=list)  # the segments that the decoder gets
    frame: bytes = b""  # the frame header, which has the size
    kind: int = 0  # the frame header's marker
    scan: int = 0  # offset of the first scan
    orientation: int | None = None


def read(data: bytes, max_pixels: int, most_pieces: int = MAX_PIECES) -> JpegImage:
    """Read a JPEG's structure. Raises `RequestError` if it is broken or unsupported."""
    head = _head(data, most_pieces)
    height, width, channels = struct.unpack_from(">HHB", head.frame, 5)
    if width and not height and _LINES in data:
        raise unsupported("JPEGs with their height after their pixels (DNL)", _ACCEPTED)
    if not width or not height:
        raise corrupt("it has no pixels or does not say how many")
    check_size(width, height, max_pixels)
    end, has_end = len(data), data.endswith(_END)
    in_scans = head.kind in _PROGRESSIVE or data[head.scan + 4] < channels
    if in_scans:
        end, has_end = _scans(data, head, channels, most_pieces)
    else:
        found = _AFTER_SCAN.search(data, head.scan + 4)
        if found is not None and found[1] == _END[1:]:  # decoders ignore what follows
            end, has_end = found.end(), True
    parts: list[bytes | memoryview] = [_START, *head.kept]
    parts += [memoryview(data)[head.scan : end], b"" if has_end else _END]
    return JpegImage(
        width=width,
        height=height,
        orientation=head.orientation or 1,
        data=b"".join(parts),
        channels=channels,
        in_scans=in_scans,
    )


def _head(data: bytes, most_pieces: int) -> _Head:
    """Go through the segments before the pixels, and keep those needed for decoding."""
    head = _Head()
    for marker, segment, at in _segments(data, most_pieces):
        if marker == _SCAN:
            if not head.frame:
                raise corrupt("its pixels come before its size")
            head.scan = at
            break
        if marker in _FRAMES or marker in _OTHER_FRAMES:
            if head.frame:
                raise corrupt("it has two frame headers")
            _check_frame(marker, segment)
            head.frame, head.kind = segment, marker
        if marker in _TABLES or marker in _FRAMES:
            head.kept.append(segment)
        # libjpeg ignores these segments if they are too short, but Pillow does not.
        elif marker == _APP0 and segment.startswith(b"JFIF\0", 4) and len(segment) >= len(_JFIF):
            head.kept.append(_JFIF)
        elif marker == _ADOBE and segment.startswith(b"Adobe", 4) and len(segment) >= _LEAST_ADOBE:
            head.kept.append(segment)
        elif marker == _EXIF and not head.orientation and segment.startswith(exif.PREFIX, 4):
            head.orientation = exif.orientation(segment[4:])  # the first segment with one counts
    return head


def _segments(data: bytes, most: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield the segments up to the first scan's: marker, whole segment, and offset."""
    at = len(_START)
    for _ in range(most):
        fill = _FILL.search(data, at)  # decoders ignore what is before
        if fill is None:
            raise truncated()
        marker, at = data[fill.end()], fill.end() - 1
        if marker in {0xD8, 0xD9}:
            raise corrupt("it ends or starts again before its pixels")
        if marker <= 0x01 or 0xD0 <= marker <= 0xD7:  # these have no length
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        segment = data[at : at + 2 + length]
        if len(segment) < 2 + length:
            raise truncated()
        if length < 2:
            raise corrupt("one of its segments has no length")
        yield marker, segment, at
        at += 2 + length
    raise corrupt("it has far too many pieces")


def _check_frame(marker: int, segment: bytes) -> None:
    """Refuse frames that libjpeg-turbo or Pillow does not decode, naming the kind."""
    if marker in _OTHER_FRAMES:
        raise unsupported(f"JPEGs of the {_OTHER_FRAMES[marker]} kind", _ACCEPTED)
    bits, channels = segment[4], segment[9]
    if bits != 8:
        raise unsupported(f"JPEGs with {bits} bits per channel", _ACCEPTED)
    if channels not in {1, 3, 4}:
        raise unsupported(f"JPEGs with {channels} colour channels", _ACCEPTED)
    if len(segment) < 10 + 3 * channels:
        raise corrupt("its frame header is too short")
    sampling = [(segment[i] >> 4, segment[i] & 15) for i in range(11, 10 + 3 * channels, 3)]
    for sides in zip(*sampling, strict=True):
        if all(sides) and any(max(sides) % side for side in sides):
            raise unsupported("JPEGs with fractional subsampling ratios", _ACCEPTED)


def _scans(data: bytes, head: _Head, channels: int, most_pieces: int) -> tuple[int, bool]:
    """Return the offset where the last of several scans ends, and whether an end marker follows.

    Raises `ImageTooLargeError` if there are too many scans, or `TruncatedImageError` if their
    headers show that some are missing: any at all or, if there is an end marker, the first scan of
    any coefficient.
    """
    bits = {head.frame[10 + 3 * i]: [-1] * 64 for i in range(channels)}
    at, scans = head.scan, 0
    for _ in range(most_pieces):
        if data[at + 1] == _SCAN:
            scans += 1
            if scans > _MAX_SCANS:
                raise ImageTooLargeError(
                    f"the image has more than {_MAX_SCANS} scans, each over all of its pixels; "
                    f"at most {_MAX_SCANS} are allowed"
                )
            _note(data, at, bits, is_progressive=head.kind in _PROGRESSIVE)
        length = int.from_bytes(data[at + 2 : at + 4])
        found = _AFTER_SCAN.search(data, at + 2 + max(2, length))
        if found is None:
            if any(any(left) for left in bits.values()):
                raise truncated()
            return len(data), False
        at = found.start()
        if found[1] == _END[1:]:
            if any(-1 in left for left in bits.values()):
                raise truncated()
            return at + 2, True
    raise corrupt("it has far too many pieces")


def _note(data: bytes, at: int, bits: dict[int, list[int]], *, is_progressive: bool) -> None:
    """Record how many low bits of each coefficient a scan leaves to later ones.

    Raises `CorruptImageError` if earlier scans already had some of its bits (T.81, G.1.1.1.1):
    otherwise scan after scan could go over all pixels without changing anything.
    """
    count = data[at + 4]
    first, last, approximation = struct.unpack_from("BBB", data, at + 5 + 2 * count)
    if not is_progressive:
        first, last, approximation = 0, 63, 0
    refines, left_after = approximation >> 4 > 0, approximation & 15
    for i in range(count):
        left = bits.get(data[at + 5 + 2 * i])
        if left is None:
            continue
        band = left[first : last + 1]
        if any(before >= 0 and (not refines or left_after >= before) for before in band):
            raise corrupt("one of its scans repeats another")
        left[first : last + 1] = [left_after] * len(band)


def read_tables(data: bytes) -> bytes:
    """Return only the tables that the JPEG parts of another file's image share.

    Raises `RequestError` if they are broken or more than a JPEG can have.
    """
    if not data:
        return b""
    begun = _START + data.removeprefix(_START).removesuffix(_END) + _EMPTY_SCAN
    segments = takewhile(lambda each: each[0] != _SCAN, _segments(begun, _MOST_PIECES_OF_PART))
    kept = [segment for marker, segment, _ in segments if marker in _TABLES]
    if sum(map(len, kept)) > _MOST_BYTES_OF_TABLES:
        raise corrupt("the tables that its parts share are more than a JPEG can have")
    return b"".join([_START, *kept, _END])


def check_part(part: bytes, tables: bytes, sizes: set[tuple[int, int]], channels: int) -> None:
    """Check that a JPEG part of another file's image is complete and has the expected size.

    It may lack tables, which are then taken from `tables`, the result of `read_tables`. Raises
    `RequestError`, or whatever a decoding library raises for bad data.
    """
    joined = tables.removesuffix(_END) + part.removeprefix(_START) if tables else part
    image = read(joined, sys.maxsize, 2 * _MOST_PIECES_OF_PART)
    if image.size not in sizes or image.channels != channels:
        raise corrupt("the size of one of its parts differs from its header")
    image.check_whole()

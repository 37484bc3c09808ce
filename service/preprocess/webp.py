"""WebP (RFC 9649): its chunks, and which of them make up the picture or the first frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from service.preprocess import exif
from service.preprocess.color import to_rgb
from service.preprocess.encoded import (
    MAX_PIECES,
    EncodedImage,
    area,
    canvas_bytes,
    corrupt,
    on_canvas,
    open_as,
    truncated,
)
from service.preprocess.limits import check_size

SIGNATURE = rb"RIFF....WEBP"
"""A pattern."""

_ALPHA = 0x10  # a flag of VP8X
_STREAMS = {b"VP8 ", b"VP8L"}
_BYTES_PER_CHUNK = 400  # files may have one more than MAX_PIECES for each of these
# Measured: 16 are for libwebp's animation decoder; alpha also needs a conversion.
_BYTES_PER_PIXEL, _BYTES_PER_TRANSPARENT_PIXEL = 17, 20
# Memory of libwebp's code tables, measured; their indices have 16 bits (RFC 9649, section 6.2.2).
_BYTES_PER_GROUP, _GROUP_BITS, _MAX_GROUPS = 6000, 20, 65_536

_Chunk = tuple[bytes, memoryview]
"""A chunk's type and content."""


@dataclass(kw_only=True)
class WebpImage(EncodedImage):
    """A WebP, or the first frame of an animated one on its transparent canvas."""

    data: bytes = field(repr=False)
    has_alpha: bool
    is_lossy: bool  # and without alpha, which is compressed like lossless pictures
    frame_size: tuple[int, int]
    frame_at: tuple[int, int]

    def peak_bytes(self) -> int:
        """Estimate the peak memory of decoding, in bytes."""
        each = _BYTES_PER_TRANSPARENT_PIXEL if self.has_alpha else _BYTES_PER_PIXEL
        canvas = canvas_bytes(self, self.frame_size)
        return len(self.data) + each * area(self.frame_size) + canvas

    def spare_bytes(self) -> int:
        """Return the bytes that the tables of a lossless picture, or of alpha, may take.

        There may be one table per 4 x 4 pixels, in 20 bits of the file; encoders write few.
        """
        if self.is_lossy:
            return 0
        width, height = self.frame_size
        most = min(-(-width // 4) * -(-height // 4), _MAX_GROUPS, len(self.data) * 8 // _GROUP_BITS)
        return most * _BYTES_PER_GROUP

    def to_rgb(self) -> Image.Image:
        """Decode to RGB, composited on white."""
        image = open_as("WEBP", self.data, self.frame_size)
        image.load()
        return on_canvas(to_rgb(image), self.size, self.frame_at)


def read(data: bytes, max_pixels: int) -> WebpImage:
    """Read a WebP's structure. Raises `RequestError` if it is broken."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated()
    orientation, canvas, at = 1, None, (0, 0)
    parts, frame = list[_Chunk](), list[_Chunk]()
    for kind, content in _chunks(data, 12, end):
        if kind == b"VP8X":
            canvas = _canvas(content)
            check_size(*canvas, max_pixels)
        elif kind == b"ANMF" and not frame:
            at, frame = _frame(content)
        elif kind == b"EXIF":
            orientation = exif.orientation(bytes(content[: exif.MAX_BYTES])) or 1
        elif kind in _STREAMS or kind == b"ALPH":
            parts.append((kind, content))
    stream, size, has_alpha = _stream(frame or parts)
    canvas = canvas or size
    check_size(*canvas, max_pixels)
    if at[0] + size[0] > canvas[0] or at[1] + size[1] > canvas[1] or (not frame and size != canvas):
        raise corrupt("the size of its picture differs from its header")
    return WebpImage(
        width=canvas[0],
        height=canvas[1],
        orientation=orientation,
        data=_file(stream, size),
        has_alpha=has_alpha,
        is_lossy=[kind for kind, _ in stream] == [b"VP8 "],
        frame_size=size,
        frame_at=at,
    )


def _chunks(data: bytes | memoryview, at: int, end: int) -> Iterator[_Chunk]:
    """Yield the chunks between two offsets. Raises `RequestError` if one extends beyond."""
    left = MAX_PIECES + len(data) // _BYTES_PER_CHUNK
    while at + 8 <= end:
        left -= 1
        if left < 0:
            raise corrupt("it has far too many pieces")
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            raise truncated()
        yield kind, memoryview(data)[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _canvas(content: memoryview) -> tuple[int, int]:
    if len(content) < 10:
        raise corrupt("its header is too short")
    return _uint24(content, 4) + 1, _uint24(content, 7) + 1


def _frame(content: memoryview) -> tuple[tuple[int, int], list[_Chunk]]:
    """Return a frame's position on the canvas, and its chunks."""
    if len(content) < 16:
        raise corrupt("its frame is too short")
    return (2 * _uint24(content, 0), 2 * _uint24(content, 3)), list(
        _chunks(content, 16, len(content))
    )


def _stream(parts: list[_Chunk]) -> tuple[list[_Chunk], tuple[int, int], bool]:
    """Return the chunks of the first picture and its alpha, its size, and whether it has alpha."""
    alpha: list[_Chunk] = []
    for kind, content in parts:
        if kind == b"ALPH":
            alpha = [(kind, content)]
        elif kind == b"VP8L":
            if len(content) < 5 or content[0] != 0x2F:
                raise corrupt("its picture has no valid header")
            bits = int.from_bytes(content[1:5], "little")
            size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
            return [(kind, content)], size, bool(bits >> 28 & 1)
        elif kind == b"VP8 ":
            if len(content) < 10 or bytes(content[3:6]) != b"\x9d\x01\x2a":
                raise corrupt("its picture has no valid header")
            width, height = struct.unpack_from("<HH", content, 6)
            if not width & 0x3FFF or not height & 0x3FFF:
                raise corrupt("it has no pixels")
            return [*alpha, (kind, content)], (width & 0x3FFF, height & 0x3FFF), bool(alpha)
    raise truncated()


def _file(chunks: list[_Chunk], size: tuple[int, int]) -> bytes:
    """Return a WebP file with one picture."""
    if len(chunks) > 1:
        sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
        header = bytes([_ALPHA, 0, 0, 0]) + sides
        chunks = [(b"VP8X", memoryview(header)), *chunks]
    pieces: list[bytes | memoryview] = [b"WEBP"]
    for kind, content in chunks:
        pieces += [kind, struct.pack("<I", len(content)), content, b"\0" * (len(content) % 2)]
    return b"".join([b"RIFF", struct.pack("<I", sum(map(len, pieces))), *pieces])


def _uint24(data: memoryview, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")

"""PNG (ISO/IEC 15948, third edition, with APNG): its chunks, and which of them make up pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from service.preprocess import exif
from service.preprocess.color import scale_transparency, to_rgb
from service.preprocess.deflate import unpacks_to
from service.preprocess.encoded import (
    MAX_PIECES,
    EncodedImage,
    area,
    canvas_bytes,
    corrupt,
    on_canvas,
    open_as,
    truncated,
    unsupported,
)
from service.preprocess.limits import check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_BYTES_PER_CHUNK = 400  # files may have one more than MAX_PIECES for each of these
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_GREY, _RGB, _INDICES = 0, 2, 3  # colour types
_SAMPLES = {_GREY: 1, _RGB: 3, _INDICES: 1, 4: 2, 6: 4}
# Passes of interlaced pictures: the first column and row, and the steps between them.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
_TRANSPARENT_BYTES = {_GREY: {2}, _RGB: {6}, 4: set[int](), 6: set[int]()}
# Memory of Pillow and `to_rgb` per pixel, measured by colour type, without and with a transparent
# colour; with 16 bits and a transparent colour, the pixels are decoded twice.
_BYTES_PER_PIXEL = {0: (6, 10), 2: (5, 13), 3: (6, 10), 4: (13, 13), 6: (9, 9)}
_BYTES_PER_DEEP_PIXEL, _BYTES_PER_DEEP_GREY = 22, 10

_Chunk = tuple[bytes, int, int]
"""A chunk's type, and the offsets where it begins and ends."""


@dataclass(kw_only=True)
class PngImage(EncodedImage):
    """A PNG, or the first frame of an animated one, which may be smaller than the canvas."""

    data: bytes = field(repr=False)
    bits: int
    kind_of_colors: int
    is_interlaced: bool
    has_transparent: bool
    frame_size: tuple[int, int]
    frame_at: tuple[int, int] = (0, 0)
    deep_transparent: tuple[int, int, int] | None = None  # a colour with 16 bits per channel

    def peak_bytes(self) -> int:
        """Estimate the peak memory of decoding, in bytes."""
        each = _BYTES_PER_PIXEL[self.kind_of_colors][self.has_transparent]
        if self.deep_transparent is not None:
            each = _BYTES_PER_DEEP_PIXEL
        elif self.bits == 16:
            each = max(each, _BYTES_PER_DEEP_GREY)
        return len(self.data) + each * area(self.frame_size) + canvas_bytes(self, self.frame_size)

    def to_rgb(self) -> Image.Image:
        """Decode to RGB, composited on white."""
        image = open_as("PNG", self.data, self.frame_size)
        image.load()
        self._check_whole(image)
        if self.deep_transparent is not None:
            del image.info["transparency"]
            picture = self._on_white(image, self.deep_transparent)
        else:
            scale_transparency(image, self.bits)
            picture = to_rgb(image)
        return on_canvas(picture, self.size, self.frame_at)

    def _check_whole(self, image: Image.Image) -> None:
        """Raise `TruncatedImageError` if the pixel stream ends early, between two rows.

        Pillow leaves missing pixels 0, so any other value in the last row, which is stored last,
        proves it complete. If that row is black, or the image interlaced, the stream is measured.
        """
        width, height = self.frame_size
        if not self.is_interlaced and any(image.crop((0, height - 1, width, height)).tobytes()):
            return
        bits = self.bits * _SAMPLES[self.kind_of_colors]
        passes = _PASSES if self.is_interlaced else ((0, 0, 1, 1),)
        sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
        rows = sum(high * (1 + (wide * bits + 7) // 8) for wide, high in sizes if min(wide, high))
        if not unpacks_to(rows, self._streams()):
            raise truncated()

    def _streams(self) -> Iterator[memoryview]:
        """Yield the pieces of the compressed pixels."""
        for kind, start, end in _chunks(self.data):
            if kind == b"IDAT":
                yield memoryview(self.data)[start + 8 : end - 4]

    def _on_white(self, image: Image.Image, transparent: tuple[int, int, int]) -> Image.Image:
        """Make exactly the pixels of one 16-bit colour white; Pillow only keeps the high bytes.

        Reading with the opposite byte order gives the low ones.
        """
        low = open_as("PNG", self.data, self.frame_size)
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        pixels = np.array(image)
        is_high = pixels == [value >> 8 for value in transparent]
        is_low = np.asarray(low) == [value & 255 for value in transparent]
        pixels[(is_high & is_low).all(axis=-1)] = 255
        return Image.fromarray(pixels)


@dataclass
class _Parts:
    """What pixels are made of; other chunks are ignored, damaged or not, as in libpng."""

    pixels: list[memoryview | bytes] = field(default_factory=list)  # whole chunks
    palette: list[memoryview] = field(default_factory=list)  # at most one, if pixels are indices
    transparent: memoryview | None = None
    is_animated: bool = False
    frames: int = 0  # so far
    control: bytes = b""  # of the first frame, if it differs from the still image
    moving: list[memoryview] = field(default_factory=list)  # the first frame's pixels
    orientation: int = 1


def read(data: bytes, max_pixels: int) -> PngImage:
    """Read a PNG's structure. Raises `RequestError` if it is broken or unsupported."""
    width, height, bits, kind_of_colors = _header(data)
    check_size(width, height, max_pixels)
    parts = _parts(data, kind_of_colors)
    if not parts.pixels:
        raise truncated()
    size, at = (width, height), (0, 0)
    if parts.is_animated and parts.moving:
        size, at = _frame(parts.control, size)
        parts.pixels = [_chunk(b"IDAT", b"".join(parts.moving))]
    header = _chunk(b"IHDR", struct.pack(">II", *size) + data[24:29])
    transparent = [] if parts.transparent is None else [parts.transparent]
    chunks = [header, *parts.palette, *transparent, *parts.pixels, _chunk(b"IEND", b"")]
    return PngImage(
        width=width,
        height=height,
        orientation=parts.orientation,
        data=b"".join([SIGNATURE, *chunks]),
        bits=bits,
        kind_of_colors=kind_of_colors,
        is_interlaced=data[28] == 1,
        has_transparent=bool(transparent),
        frame_size=size,
        frame_at=at,
        deep_transparent=_deep_transparent(parts.transparent, bits, kind_of_colors),
    )


def _parts(data: bytes, kind_of_colors: int) -> _Parts:
    parts = _Parts()
    for kind, start, end in _chunks(data):
        if kind == b"IDAT":
            parts.pixels.append(_checked(data, start, end))
        elif kind == b"PLTE" and kind_of_colors == _INDICES and not parts.pixels:
            parts.palette.append(_checked(data, start, end))
            if len(parts.palette) > 1:
                raise corrupt("it has several palettes")
        elif kind == b"tRNS" and not parts.pixels and parts.transparent is None:
            most = len(parts.palette[0]) // 3 - 4 if parts.palette else 0
            lengths = _TRANSPARENT_BYTES.get(kind_of_colors, range(1, most + 1))
            if end - start - 12 in lengths and _is_sound(data, start, end):
                parts.transparent = memoryview(data)[start:end]
        elif kind in {b"acTL", b"fcTL", b"fdAT"}:
            _note_frame(parts, data, (kind, start, end))
        elif kind == b"eXIf" and _is_sound(data, start, end):
            tags = data[start + 8 : min(end - 4, start + 8 + exif.MAX_BYTES)]
            parts.orientation = exif.orientation(tags) or 1
    return parts


def _note_frame(parts: _Parts, data: bytes, chunk: _Chunk) -> None:
    """Record what an APNG chunk says about the first frame."""
    kind, start, end = chunk
    if kind == b"acTL":
        if not parts.pixels and _is_sound(data, start, end):
            parts.is_animated = any(data[start + 8 : start + 12])  # the number of frames
    elif kind == b"fcTL":
        parts.frames += 1
        if parts.frames == 1 and parts.pixels:  # before the pixels, it is the still image's
            parts.control = bytes(_checked(data, start, end)[8:-4])
    elif parts.control and parts.frames == 1:
        parts.moving.append(_checked(data, start, end)[12:-4])


def _header(data: bytes) -> tuple[int, int, int, int]:
    """Return width, height, bits per sample and colour type."""
    if data[12:16] == b"CgBI":
        raise unsupported("PNGs in Apple's own format (CgBI)", "standard PNGs are")
    if len(data) < 33:
        raise truncated()
    length, kind, width, height, bits, colors, packing, filtering, interlaced = struct.unpack_from(
        ">I4sIIBBBBB", data, 8
    )
    if (length, kind) != (13, b"IHDR"):
        raise corrupt("its first chunk is not IHDR")
    _checked(data, 8, 33)
    if not width or not height:
        raise corrupt("it has no pixels")
    if bits not in _DEPTHS.get(colors, ()) or packing or filtering or interlaced > 1:
        raise corrupt("its header has values that PNG does not allow")
    return width, height, bits, colors


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks after the header up to IEND, or to the first that extends beyond the file.

    That one is the last if there is no IEND; its type shows whether it was needed.
    """
    at, left = 33, MAX_PIECES + len(data) // _BYTES_PER_CHUNK
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        left -= 1
        if left < 0:
            raise corrupt("it has far too many pieces")
        if kind == b"IEND":
            return
        if length or kind != b"IDAT":  # streaming encoders write empty ones
            yield kind, at, end
        at = end


def _checked(data: bytes, start: int, end: int) -> memoryview:
    """Return a whole chunk. Raises `RequestError` if it is truncated or its checksum is wrong."""
    if end > len(data):
        raise truncated()
    chunk = memoryview(data)[start:end]
    if not _is_sound(data, start, end):
        kind = str(chunk[4:8], "latin-1")
        raise corrupt(f"the checksum of its chunk {kind!r} is wrong")
    return chunk


def _is_sound(data: bytes, start: int, end: int) -> bool:
    content = memoryview(data)[start + 4 : end - 4]
    return zlib.crc32(content) == int.from_bytes(data[end - 4 : end])


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _frame(control: bytes, canvas: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first frame's size and position, from its fcTL chunk."""
    if len(control) < 20:
        raise corrupt("its frame control chunk is too short")
    _, width, height, x, y = struct.unpack_from(">IIIII", control)
    if not width or not height or x + width > canvas[0] or y + height > canvas[1]:
        raise corrupt("its first frame is not within the image")
    return (width, height), (x, y)


def _deep_transparent(
    chunk: memoryview | None, bits: int, kind_of_colors: int
) -> tuple[int, int, int] | None:
    """Return the transparent colour of a 16-bit PNG, which Pillow can't represent."""
    if bits != 16 or kind_of_colors != _RGB or chunk is None:
        return None
    red, green, blue = struct.unpack_from(">HHH", chunk, 8)
    return red, green, blue

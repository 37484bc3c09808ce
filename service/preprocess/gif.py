"""GIF (87a and 89a): its blocks up to the first picture, which is decoded as a separate file."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from PIL import Image

from service.preprocess.color import to_rgb
from service.preprocess.encoded import (
    MAX_PIECES,
    EncodedImage,
    area,
    canvas_bytes,
    corrupt,
    on_canvas,
    open_as,
    unsupported,
)
from service.preprocess.limits import check_size

SIGNATURE = rb"GIF8[79]a"
"""A pattern."""

_EXTENSION, _PICTURE, _TRAILER = 0x21, 0x2C, 0x3B  # first bytes of blocks
_CONTROL = 0xF9  # the graphic control extension, which describes a picture
_CODE_BITS = range(2, 9)  # decoders disagree on others
_TRANSPARENT = 1  # a flag in the graphic control extension
_HAS_PALETTE, _PALETTE_BITS = 0x80, 0x07  # flags of the screen and of a picture
# XMP is stored verbatim, so its characters are taken for block lengths; a trailer makes every one
# of them lead to the end (XMP specification, part 3, section 1.1.2).
_XMP = b"\x0bXMP DataXMP"
_XMP_TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
_BYTES_PER_BLOCK = 64  # files may have one more than MAX_PIECES for each of these
_BYTES_PER_PIXEL, _BYTES_PER_TRANSPARENT_PIXEL = 7, 11  # of the picture, measured


@dataclass(kw_only=True)
class GifImage(EncodedImage):
    """The first picture of a GIF on its screen, which is transparent outside the picture."""

    data: bytes = field(repr=False)
    has_transparent: bool
    picture_size: tuple[int, int]
    picture_at: tuple[int, int]

    @property
    def pixels(self) -> int:
        """Return the pixels of the screen or of the picture, whichever has more."""
        return max(self.width * self.height, area(self.picture_size))

    def peak_bytes(self) -> int:
        """Estimate the peak memory of decoding, in bytes."""
        each = _BYTES_PER_TRANSPARENT_PIXEL if self.has_transparent else _BYTES_PER_PIXEL
        screen = canvas_bytes(self, self.picture_size)
        return len(self.data) + each * area(self.picture_size) + screen

    def to_rgb(self) -> Image.Image:
        """Decode the picture to RGB and place it on a white screen."""
        image = open_as("GIF", self.data, self.picture_size)
        image.load()
        return on_canvas(to_rgb(image), self.size, self.picture_at)


def read(data: bytes, max_pixels: int) -> GifImage:
    """Read a GIF's structure up to its first picture. Raises `RequestError` if it is broken."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    palette_end = 13 + _palette_bytes(flags)
    control, at, may_search = b"", palette_end, True
    left = MAX_PIECES + len(data) // _BYTES_PER_BLOCK
    while (kind := data[at]) != _PICTURE:
        if kind == _TRAILER:
            raise corrupt("it has no picture")
        if left <= 0:
            raise corrupt("it has far too many pieces")
        if kind == 0:  # some encoders end an extension twice
            at, left = at + 1, left - 1
            continue
        if kind != _EXTENSION:
            raise corrupt("it has a block of unknown kind before its picture")
        label, start = data[at + 1], at + 2
        if label == _CONTROL and data[start] == 4:
            control = data[at : start + 6]
        at, blocks = _after(data, start, left, may_search=may_search)
        # Once a trailer was missing, it is not searched for again: each search reads all the file.
        may_search = may_search and (blocks == 1 or not data.startswith(_XMP, start))
        left -= blocks
    image = _picture(data, at, (width, height), data[13:palette_end], flags, control)
    check_size(*image.size, max_pixels)
    return image


def _after(data: bytes, at: int, most: int, *, may_search: bool) -> tuple[int, int]:
    """Return the offset of an extension's end, and its number of blocks."""
    if may_search and data.startswith(_XMP, at) and (found := data.find(_XMP_TRAILER, at)) >= 0:
        return found + len(_XMP_TRAILER), 1
    for count in range(1, most + 1):
        length = data[at]
        at += 1 + length
        if not length:
            return at, count
    raise corrupt("it has far too many pieces")


def _picture(
    data: bytes, at: int, screen: tuple[int, int], palette: bytes, flags: int, control: bytes
) -> GifImage:
    """Return the picture as a file of its own, on a screen of the picture's size."""
    x, y, width, height, own = struct.unpack_from("<HHHHB", data, at + 1)
    if not width or not height:
        raise corrupt("it has no pixels")
    code_bits = data[at + 10 + _palette_bytes(own)]
    if code_bits not in _CODE_BITS:
        raise unsupported(f"GIFs with {code_bits}-bit codes", "2 to 8 bits are")
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, flags, 0, 0)
    box = struct.pack("<BHHHHB", _PICTURE, 0, 0, width, height, own)
    # Not cut off at the picture's end: Pillow reads no further.
    rest = memoryview(data)[at + 10 :]
    if control and control[3] & _TRANSPARENT:
        # The disposal method is dropped: it says what follows the picture, and nothing does.
        control = control[:3] + bytes([_TRANSPARENT, 0, 0]) + control[6:7] + b"\0"
    else:
        control = b""
    return GifImage(
        # A screen that is too small or has no size grows, as in browsers.
        width=max(screen[0], x + width),
        height=max(screen[1], y + height),
        data=b"".join([head, palette, control, box, rest]),
        has_transparent=bool(control),
        picture_size=(width, height),
        picture_at=(x, y),
    )


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & _PALETTE_BITS) + 1 if flags & _HAS_PALETTE else 0

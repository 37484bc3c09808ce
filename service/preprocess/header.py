"""Reads from an encoded image's header how much work decoding is, without decoding anything.

This is only for planning: decoding decides whether an image is accepted. A header that is wrong or
not found here only makes a prediction worse.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from service.contract import Preprocessing
from service.preprocess.transform import is_reduced, least_decoded_size

_MOST_SEGMENTS = 200  # of a JPEG before its frame: 64 KB each, so any real colour profile
_MOST_ENTRIES = 100  # of a TIFF's directory
_BOXES_WITHIN = 4096  # bytes searched for the sizes of an AVIF or HEIC file's pictures
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TIFF_INTEGERS = {1: "B", 3: "H", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}  # the others are "I"
_WITH_ALPHA = frozenset({4, 6})  # colour types of PNG


@dataclass(frozen=True, slots=True)
class Header:
    """What determines an image's decoding time: the kind of decoding and the number of pixels."""

    kind: str
    """A format, with a variant that takes more or less time, such as "jpeg progressive"."""
    width: int = 0
    height: int = 0

    @property
    def pixels(self) -> int:
        """Return width x height; 0 if the header could not be read."""
        return self.width * self.height


UNKNOWN = Header("unknown")


def read_header(data: bytes, preprocessing: Preprocessing, jpeg_draft_ratio: float) -> Header:
    """Return an encoded image's kind and size; `UNKNOWN` if its header can't be read."""
    for signature, read in _READERS.items():
        if data.startswith(signature):
            try:
                header = read(data)
            except (struct.error, OverflowError):  # truncated, or an offset beyond any file
                return UNKNOWN
            if header.kind == "jpeg" and header.pixels:
                size = header.width, header.height
                least = least_decoded_size(size, preprocessing, jpeg_draft_ratio)
                return Header("jpeg reduced", *size) if is_reduced(size, least) else header
            return header
    return _boxes(data) if data[4:8] == b"ftyp" else UNKNOWN


def _jpeg(data: bytes) -> Header:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        start, marker = struct.unpack_from("BB", data, at)
        if start != 0xFF:
            break
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            kind = "jpeg progressive" if marker in _PROGRESSIVE else "jpeg"
            return Header(kind, width, height)
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return UNKNOWN


def _png(data: bytes) -> Header:
    width, height, _, color = struct.unpack_from(">IIBB", data, 16)
    return Header("png with alpha" if color in _WITH_ALPHA else "png", width, height)


def _webp(data: bytes) -> Header:
    form = data[8:16]
    if form == b"WEBPVP8X":
        sides = [int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27)]
        return Header("webp", *sides)
    if form == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("webp lossless", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if form == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF)
    return UNKNOWN


def _gif(data: bytes) -> Header:
    return Header("gif", *struct.unpack_from("<HH", data, 6))


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Header("bmp", abs(width), abs(height))


def _tiff(data: bytes) -> Header:
    order = "<" if data.startswith(b"II") else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    step, value_at = (20, 12) if big else (12, 8)
    sides = dict[int, int]()
    for entry in range(at, at + step * min(entries, _MOST_ENTRIES), step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):
            form = _TIFF_INTEGERS.get(kind, "I")
            (sides[tag],) = struct.unpack_from(order + form, data, entry + value_at)
    return Header("tiff", max(0, sides.get(256, 0)), max(0, sides.get(257, 0)))


def _boxes(data: bytes) -> Header:
    """Return the largest picture of an AVIF or HEIC file (ISO/IEC 23008-12, box `ispe`)."""
    kind = "avif" if data[8:12] in (b"avif", b"avis") else "heic"
    found, at = Header(kind), data.find(b"ispe", 0, _BOXES_WITHIN)
    while at >= 0:
        sides = data[at + 8 : at + 16]
        if len(sides) == 8:
            found = max(found, Header(kind, *struct.unpack(">II", sides)), key=_pixels)
        at = data.find(b"ispe", at + 4, _BOXES_WITHIN)
    return found


def _pixels(header: Header) -> int:
    return header.pixels


_READERS: dict[bytes, Callable[[bytes], Header]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"RIFF": _webp,
    b"GIF8": _gif,
    b"BM": _bmp,
    b"II": _tiff,
    b"MM": _tiff,
}

"""Hand-made HEIF files: AVIF and HEIC that the available encoders don't write."""

from __future__ import annotations

import struct

from images import encode
from PIL import Image

FORMATS = ["AVIF", "HEIF"]


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def full(kind: bytes, version: int, *content: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *content)


def boxes_in(data: bytes, kind: bytes) -> list[bytes]:
    start = data.index(kind) - 4
    end, at, found = start + int.from_bytes(data[start : start + 4]), start + 8, []
    while at < end:
        length = int.from_bytes(data[at : at + 4])
        found.append(data[at : at + length])
        at += length
    return found


def coded(picture: Image.Image, image_format: str) -> tuple[bytes, list[bytes]]:
    """Return a coded picture and its properties."""
    data = encode(picture, image_format, quality=95)
    return data[data.index(b"mdat") + 4 :], boxes_in(data, b"ipco")


CODES = {"AVIF": (b"avif", b"av01"), "HEIF": (b"heic", b"hvc1")}
MUST = {b"irot", b"imir", b"clap", b"av1C", b"hvcC"}  # be understood


def heif_file(
    image_format: str,
    items: list[tuple[bytes, bytes, list[bytes]]],
    brands: list[bytes] | None = None,
    more: bytes = b"",
) -> bytes:
    """Return a file with items (type, bytes, properties); the first is made of the others.

    `more` has boxes with further references.
    """
    first, *others = brands or [CODES[image_format][0], CODES[image_format][0], b"mif1"]
    head = box(b"ftyp", first, bytes(4), *others)
    properties = list(dict.fromkeys(each for _, _, own in items for each in own))
    told = b""
    for number, (_, _, own) in enumerate(items, 1):
        places = [properties.index(each) + 1 | (each[4:8] in MUST) << 7 for each in own]
        told += struct.pack(">HB", number, len(own)) + bytes(places)
    refs = b""
    if len(items) > 1:
        numbers = range(1, len(items) + 1)
        refs = full(b"iref", 0, box(b"dimg", struct.pack(f">HH{len(items) - 1}H", 1, len(items) - 1,
                                                         *numbers[1:])), more)  # fmt: skip

    def meta(at: int) -> bytes:
        places = b""
        for number, (_, payload, _) in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, at, len(payload))
            at += len(payload)
        return full(
            b"meta", 0,
            full(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            full(b"pitm", 0, struct.pack(">H", 1)),
            full(b"iloc", 0, b"\x44\0", struct.pack(">H", len(items)), places),
            full(b"iinf", 0, struct.pack(">H", len(items)), *(
                full(b"infe", 2, struct.pack(">HH", number, 0), kind, b"\0")
                for number, (kind, _, _) in enumerate(items, 1)
            )),
            refs,
            box(b"iprp", box(b"ipco", *properties),
                full(b"ipma", 0, struct.pack(">I", len(items)), told)),
        )  # fmt: skip

    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + box(b"mdat", *(payload for _, payload, _ in items))

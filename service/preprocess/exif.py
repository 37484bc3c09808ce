"""Reads the orientation, and nothing else, from EXIF data.

By Exif 2.32, section 4.6, they are a TIFF; only its first directory is read, within bounds. A
library's reader would parse every tag, and the directories that tags point to.
"""

from __future__ import annotations

import struct

PREFIX = b"Exif\0\0"
"""Prefix of EXIF data in a JPEG; some writers add it in other formats, or twice, by mistake."""

MAX_BYTES = 65_536
"""The maximum of a JPEG's segment; anything beyond is ignored."""

_MAX_ENTRIES = 1000
_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def orientation(data: bytes) -> int | None:
    """Return the orientation in EXIF data, 1 to 8; None if there is no valid one.

    It must be a single SHORT or LONG. Broken EXIF is no reason to refuse a good image.
    """
    data = data[:MAX_BYTES]
    for _ in range(2):
        data = data.removeprefix(PREFIX)
    order = _ORDERS.get(data[:4])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(at + 2, at + 2 + 12 * min(entries, _MAX_ENTRIES), 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", data, entry)
            if tag == _ORIENTATION:
                return _valid(data, entry + 8, order, kind) if count == 1 else None
    except struct.error:
        pass
    return None


def _valid(data: bytes, at: int, order: str, kind: int) -> int | None:
    if kind not in {_SHORT, _LONG}:
        return None
    (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", data, at)
    return int(value) if 1 <= value <= 8 else None

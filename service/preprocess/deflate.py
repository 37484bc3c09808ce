"""The amount of data in a zlib stream (RFC 1950), the compression of PNG and TIFF."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

_PACKED_AT_ONCE, _UNPACKED_AT_ONCE = 2**14, 2**18
_STREAM_HEAD = 2  # bytes of a zlib stream (RFC 1950)


def unpacks_to(least: int, pieces: Iterable[memoryview]) -> bool:
    """Return whether a zlib stream holds at least `least` bytes, ignoring its checksum.

    It is decompressed in pieces, and no further than that. Raises `zlib.error` if it is broken.
    """
    unpacking, skip, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), _STREAM_HEAD, 0
    for piece in pieces:
        for at in range(skip, len(piece), _PACKED_AT_ONCE):
            packed: bytes | memoryview = piece[at : at + _PACKED_AT_ONCE]
            got = _UNPACKED_AT_ONCE
            while unpacked < least and (packed or got == _UNPACKED_AT_ONCE) and not unpacking.eof:
                got = len(unpacking.decompress(packed, _UNPACKED_AT_ONCE))
                unpacked, packed = unpacked + got, unpacking.unconsumed_tail
        skip = max(0, skip - len(piece))
    return unpacked >= least

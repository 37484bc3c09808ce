"""The structure of JPEGs (ITU-T T.81): segments up to the pixels, scans, and shared tables.

The work is bounded: pieces and scans are limited in number, and no scan may repeat another.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from service.errors import ImageTooLargeError
from service.preprocess import exif
from service.preprocess.encoded import MAX_PIECES, corrupt, truncated, unsupported

START, END, START_OF_SCAN, INTERVAL = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xdd"
"""The markers of the start and end of an image, of a scan, and of the restart interval."""

ACCEPTED = "JPEGs with 8 bits and 1, 3 or 4 colour channels are"
"""The kinds that are decoded, for messages."""

MOST_PIECES_OF_PART = 64
"""Limit for a JPEG that is one of many parts of another file's image; encoders write some ten."""

_APP0, _EXIF, _ADOBE, _SCAN, _ARITHMETIC = 0xE0, 0xE1, 0xEE, 0xDA, 0xCC
# Only its presence matters, and the decoder warns about odd versions.
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_LEAST_ADOBE = 16  # bytes
_TABLES = {0xC4, 0xDB, 0xDD, _ARITHMETIC}  # codes, quantisation, the restart interval
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
# All tables that a JPEG can have take 2.8 KB.
_MOST_BYTES_OF_TABLES = 4096
_EMPTY_SCAN = b"\xff\xda\0\2"

# Each scan goes over all pixels. Encoders write ten scans, or some twenty when they aim for the
# smallest file.
_MAX_SCANS = 32


@dataclass
class Head:
    """Everything before the pixels."""

    kept: list[bytes] = field(default_factory=list)  # the segments that the decoder gets
    frame: bytes = b""  # the frame header, which has the size
    kind: int = 0  # the frame header's marker
    scan: int = 0  # offset of the first scan
    orientation: int | None = None


def read_head(data: bytes, most_pieces: int) -> Head:
    """Go through the segments before the pixels, and keep those needed for decoding."""
    head = Head()
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
    at = len(START)
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
        raise unsupported(f"JPEGs of the {_OTHER_FRAMES[marker]} kind", ACCEPTED)
    bits, channels = segment[4], segment[9]
    if bits != 8:
        raise unsupported(f"JPEGs with {bits} bits per channel", ACCEPTED)
    if channels not in {1, 3, 4}:
        raise unsupported(f"JPEGs with {channels} colour channels", ACCEPTED)
    if len(segment) < 10 + 3 * channels:
        raise corrupt("its frame header is too short")
    sampling = [(segment[i] >> 4, segment[i] & 15) for i in range(11, 10 + 3 * channels, 3)]
    for sides in zip(*sampling, strict=True):
        if all(sides) and any(max(sides) % side for side in sides):
            raise unsupported("JPEGs with fractional subsampling ratios", ACCEPTED)


def read_end(
    data: bytes, head: Head, channels: int, most_pieces: int = MAX_PIECES
) -> tuple[int, bool]:
    """Return the offset where the image ends, and whether it has an end marker.

    The offset is after that marker or, without one, where the data ends. Raises
    `ImageTooLargeError` if there are too many scans, or `TruncatedImageError` if some are missing.
    """
    if is_in_scans(data, head, channels):
        return _scans(data, head, channels, most_pieces)
    found = _AFTER_SCAN.search(data, head.scan + 4)
    if found is not None and found[1] == END[1:]:  # decoders ignore what follows
        return found.end(), True
    return len(data), data.endswith(END)


def is_in_scans(data: bytes, head: Head, channels: int) -> bool:
    """Return whether there are, or should be, several scans, each over all pixels."""
    return head.kind in _PROGRESSIVE or data[head.scan + 4] < channels


def _scans(data: bytes, head: Head, channels: int, most_pieces: int) -> tuple[int, bool]:
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
        if found[1] == END[1:]:
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
    begun = START + data.removeprefix(START).removesuffix(END) + _EMPTY_SCAN
    segments = takewhile(lambda each: each[0] != _SCAN, _segments(begun, MOST_PIECES_OF_PART))
    kept = [segment for marker, segment, _ in segments if marker in _TABLES]
    if sum(map(len, kept)) > _MOST_BYTES_OF_TABLES:
        raise corrupt("the tables that its parts share are more than a JPEG can have")
    return b"".join([START, *kept, END])

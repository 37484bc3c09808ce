"""The strips or tiles of a TIFF: how an image is divided, and where they are in the file."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from service.errors import ImageTooLargeError
from service.preprocess import tiff_tags as tags
from service.preprocess.encoded import area, corrupt, truncated, unsupported
from service.preprocess.tiff_packing import CCITT, JPEG
from service.preprocess.tiff_tags import Directory

_MAX_PARTS = 300_000  # enough for single rows of the tallest image in separate colour planes
# The format's smallest tiles have 16 x 16 pixels; some smaller ones are allowed.
_PIXELS_PER_TILE, _SPARE_TILES = 64, 1000
# A JPEG has tables to prepare, and a fax is searched. Writers make strips of 8 KB or of one row,
# and tiles of 64 x 64 or larger.
_PIXELS_PER_JPEG, _SPARE_JPEGS = 1024, 256
_PIXELS_PER_FAX, _SPARE_FAXES = 256, 1000
# Tiles extend beyond the image; no writer pads more than this.
_MAX_PADDING, _SPARE_PIXELS = 4, 2**22
# Some writers store equal tiles once. Each is unpacked, so a small file could mean a lot of work.
_MAX_SHARED = 2


@dataclass
class Layout:
    """How an image is divided into strips or tiles."""

    tiled: bool
    part_size: tuple[int, int]
    rows: list[int]  # of each part, over all planes


def read_layout(directory: Directory, size: tuple[int, int], planes: int) -> Layout:
    """Read how an image is divided. Raises `RequestError` if its parts are too small or large."""
    width, height = size
    if tags.TILE_WIDTH in directory.entries:
        side = directory.number(tags.TILE_WIDTH, 0), directory.number(tags.TILE_HEIGHT, 0)
        if not all(side):
            raise corrupt("its tiles have no size")
        across, down = -(-width // side[0]), -(-height // side[1])
        padded = across * side[0] * down * side[1]
        if padded > _MAX_PADDING * width * height + _SPARE_PIXELS:
            raise ImageTooLargeError(
                f"the image has {width} x {height} pixels, but its tiles of {side[0]} x {side[1]} "
                f"have {padded}; at most {_MAX_PADDING} times its pixels plus {_SPARE_PIXELS} are "
                "allowed"
            )
        number, rows = across * down * planes, [side[1]]
        if across * down > width * height // _PIXELS_PER_TILE + _SPARE_TILES:
            raise corrupt(f"it has {number} tiles of {side[0]} x {side[1]} pixels")
    else:
        # If the number is missing or 0, a single strip has all rows.
        side = width, min(directory.number(tags.ROWS_PER_STRIP, 0) or height, height)
        number = -(-height // side[1]) * planes
        rows = [side[1]] * (height // side[1]) + [height % side[1]] * (height % side[1] > 0)
    if number > _MAX_PARTS:
        raise corrupt(f"it has {number} strips or tiles")
    return Layout(tags.TILE_WIDTH in directory.entries, side, rows * (number // len(rows)))


def check_number(layout: Layout, size: tuple[int, int], compression: int) -> None:
    """Raise `UnsupportedPixelsError` for too many JPEGs or faxes for an image of this size."""
    limits = {JPEG: ("JPEGs", _PIXELS_PER_JPEG, _SPARE_JPEGS)}
    limits |= dict.fromkeys(CCITT, ("faxes", _PIXELS_PER_FAX, _SPARE_FAXES))
    if compression not in limits:
        return
    name, pixels_each, spare = limits[compression]
    number, most = len(layout.rows), area(size) // pixels_each + spare
    if number > most:
        raise unsupported(
            f"TIFFs of {number} {name} with {area(size)} pixels", f"at most {most} {name} are"
        )


def read_places(directory: Directory, layout: Layout, row_bytes: int) -> list[tuple[int, int]]:
    """Return where each part begins and ends; `row_bytes` is a row's length, 0 if unknown.

    Raises `RequestError` if that is missing or not within the file.
    """
    number = len(layout.rows)
    wanted = (tags.TILE_OFFSETS, tags.STRIP_OFFSETS)[:: 1 if layout.tiled else -1]
    starts = next(
        (directory.numbers(tag, most=_MAX_PARTS) for tag in wanted if tag in directory.entries), []
    )
    if len(starts) < number:
        raise corrupt(f"it has {number} strips or tiles but only {len(starts)} offsets")
    if 0 in starts[:number]:
        raise unsupported("TIFFs that lack some of their strips or tiles", "complete ones are")
    if row_bytes:
        lengths = [row_bytes * rows for rows in layout.rows]
    else:
        lengths = _lengths(directory, starts, number)
    parts = [(start, start + n) for start, n in zip(starts, lengths, strict=False)]
    if max(end for _, end in parts) > len(directory.data):
        raise truncated()
    if sum(lengths) > _MAX_SHARED * len(directory.data):
        raise corrupt("its strips or tiles share their data")
    return parts


def _lengths(directory: Directory, starts: list[int], number: int) -> list[int]:
    """Return the lengths of packed parts; one without a length ends at the next, or at the end."""
    counts = (tags.TILE_COUNTS, tags.STRIP_COUNTS)
    tag = next((tag for tag in counts if tag in directory.entries), 0)
    lengths = directory.numbers(tag, (0,), most=_MAX_PARTS)[:number] if tag else []
    if len(lengths) == number and 0 not in lengths:
        return lengths
    lengths += [0] * (number - len(lengths))
    ends = sorted({*starts[:number], len(directory.data)})
    if ends[-1] > len(directory.data):
        raise truncated()
    return [
        length or ends[min(bisect_right(ends, start), len(ends) - 1)] - start
        for start, length in zip(starts, lengths, strict=False)
    ]

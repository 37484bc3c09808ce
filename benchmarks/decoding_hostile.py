"""Files made to take far more than an honest image of as many pixels."""

from __future__ import annotations

import io
import itertools
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pillow_heif
from decoding_honest import encode, entry, in_runs, photo
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import heif_files

SIDE = 1500  # of those whose pixels are to take long


def directory(width: int, height: int, *more: bytes, tail: bytes = b"") -> bytes:
    """Return a grey TIFF of deflated parts."""
    entries = [
        entry(256, 4, 1, width), entry(257, 4, 1, height), entry(258, 3, 1, 8),
        entry(259, 3, 1, 8), entry(262, 3, 1, 1), *more,
    ]  # fmt: skip
    head = struct.pack("<4sIH", b"II*\0", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + tail


def tiles_of_one_stream() -> bytes:
    """65535 x 1 pixels in 4096 tiles of 16 x 3,124,992 that share their data."""
    packed, count, at = zlib.compress(bytes(50_000_000), 9), 4096, 8 + 2 + 12 * 9 + 4
    tail = struct.pack(f"<{count}I", *[at + 8 * count] * count)
    tail += struct.pack(f"<{count}I", *[len(packed)] * count)
    return directory(
        65_535, 1, entry(322, 4, 1, 16), entry(323, 4, 1, 3_124_992),
        entry(324, 4, count, at), entry(325, 4, count, at + 4 * count), tail=tail + packed,
    )  # fmt: skip


def strips_of_one_stream() -> bytes:
    """65,535 strips that point at the same 500 KB, each of which is to be turned round."""
    count, at, packed = 65_535, 8 + 2 + 12 * 9 + 4, bytes(500_000)
    tail = struct.pack(f"<{count}I", *[at + 8 * count] * count)
    tail += struct.pack(f"<{count}I", *[len(packed)] * count)
    return directory(
        64, 65_535, entry(266, 3, 1, 2), entry(273, 4, count, at), entry(278, 4, 1, 1),
        entry(279, 4, count, at + 4 * count), tail=tail + packed,
    )  # fmt: skip


def one_huge_tile(kind: int) -> bytes:
    """151 bytes whose one tile takes half a gigabyte."""
    packed, at = zlib.compress(bytes(1000)), 8 + 2 + 12 * 9 + 4
    return directory(
        64, 64, entry(322, kind, 1, 128), entry(323, 4, 1, 4_000_000), entry(324, 4, 1, at),
        entry(325, 4, 1, len(packed)), tail=packed,
    )  # fmt: skip


def rationals(tag: int = 0x0112) -> bytes:
    """30 MB of EXIF: a sub-directory and a tag of fractions."""
    count = 3_700_000
    head = struct.pack("<4sIH", b"II*\0", 8, 2) + entry(tag, 5, count, 200)
    head += entry(34665, 4, 1, 100) + bytes(4)
    return (
        head.ljust(100, b"\0") + struct.pack("<H", 1) + entry(tag, 5, count, 200) + bytes(8 * count)
    )


def small(form: str, **options: object) -> bytes:
    """Return a picture of 64 x 64."""
    return encode(photo(64, 64), form, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG's chunk."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def scans(count: int, side: int = 3000) -> bytes:
    """Return a progressive JPEG whose last scan, which changes nothing, comes again and again."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:-2] + data[at:-2] * count + data[-2:]


def webp_claiming(width: int, height: int) -> bytes:
    """38 bytes of lossless WebP of any size."""
    bits = (width - 1) | (height - 1) << 14
    stream = b"\x2f" + bits.to_bytes(4, "little") + bytes(13)
    return (
        b"RIFF"
        + struct.pack("<I", 12 + len(stream))
        + b"WEBPVP8L"
        + struct.pack("<I", len(stream))
        + stream
    )


def strips(tags: dict[int, int | bytes], parts: list[bytes], rows: int) -> bytes:
    """Return a little-endian TIFF of such strips; a tag's bytes are stored as they are."""
    offsets = itertools.accumulate(map(len, parts), initial=8)
    lists = {273: [*offsets][:-1], 279: [len(part) for part in parts]}
    values = {tag: struct.pack(f"<{len(each)}I", *each) for tag, each in lists.items()}
    values |= {tag: each if isinstance(each, bytes) else struct.pack("<I", each)
               for tag, each in ({278: rows} | tags).items()}  # fmt: skip
    at = 8 + sum(map(len, parts))
    outside, outside_at = b"", at + 2 + 12 * len(values) + 4
    entries = struct.pack("<H", len(values))
    for tag, value in sorted(values.items()):
        kind, size = (7, 1) if tag == 347 else (4, 4)
        entries += struct.pack("<HHI", tag, kind, len(value) // size)
        entries += value if len(value) == 4 else struct.pack("<I", outside_at + len(outside))
        outside += value if len(value) > 4 else b""
    return struct.pack("<4sI", b"II*\0", at) + b"".join(parts) + entries + bytes(4) + outside


def jpeg_strips(count: int, tables: bytes, side: int = 64) -> bytes:
    """Return a TIFF of grey JPEG strips, 16 rows each, which share these tables and their own."""
    file = encode(photo(side, 16).convert("L"), "TIFF", compression="jpeg")
    with Image.open(io.BytesIO(file)) as image:
        shared, (at,), (length,) = (image.tag_v2[tag] for tag in (347, 273, 279))
    tags = {256: side, 257: 16 * count, 258: 8, 259: 7, 262: 1, 277: 1}
    tables = shared[:2] + tables + shared[2:]
    return strips(tags | {347: tables}, [file[at : at + length]] * count, 16)


def fax_codes(side: int, group: int) -> bytes:
    """Return the codes of a picture in one strip."""
    file = encode(photo(side, side).convert("1"), "TIFF", compression=f"group{group}")
    with Image.open(io.BytesIO(file)) as image:
        (at,), (length,) = (image.tag_v2[tag] for tag in (273, 279))
    return file[at : at + length]


def fax(size: tuple[int, int], group: int, parts: list[bytes], rows: int) -> bytes:
    """Return a fax of such strips."""
    tags = {256: size[0], 257: size[1], 258: 1, 259: group, 262: 1, 277: 1}
    return strips(tags, parts, rows)


def fax_rows(count: int, group: int) -> bytes:
    """Return a fax of 64 pixels across in strips of a row, with more behind it in each."""
    return fax((64, count), group, [fax_codes(64, group)] * count, 1)


def warned(marker: bytes, **options: object) -> bytes:
    """Return a JPEG with some bytes that are of no pixel before its first marker of a kind."""
    data = encode(photo(SIDE, SIDE), "JPEG", **options)
    at = data.index(marker, data.index(b"\xff\xda"))
    return data[:at] + b"some more" + data[at:]


def unnamed_sampling() -> bytes:
    """Return a JPEG of a sampling that only few decoders have a name for, and a warning."""
    grey = encode(photo(SIDE, SIDE).convert("L"), "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    high = SIDE // 48 * 8  # five blocks a unit of 24 x 8 pixels
    size = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, high, SIDE // 24 * 24, 3)
    head = grey[:frame] + size + b"\1\x31\0\2\x11\0\3\x11\0" + grey[frame + 13 : scan]
    return head + b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0" + grey[scan + 10 :]


def bands(count: int) -> bytes:
    """Return a progressive JPEG whose coefficients are in as many scans as are allowed."""
    data = encode(Image.new("L", (3000, 3000), 128), "JPEG", progressive=True)
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    table = data.rindex(b"\xff\xc4", 0, scans[1])
    end = data.index(b"\xff\xc4", scans[1])  # where the next table begins
    scan = data[scans[1] : end]
    edges = [1, *range(65 - count, 65)]
    pieces = (
        scan[:7] + bytes([first, after - 1, 0]) + scan[10:]
        for first, after in itertools.pairwise(edges)
    )
    return data[:table] + data[table : scans[1]] + b"".join(pieces) + data[-2:]


def heif_grid(
    form: str, tiles: int, *, item: bytes = b"", sets: int = 0, more: bytes = b""
) -> bytes:
    """Return a row of equal tiles that share their properties; of a HEIC, with more parameters."""
    pillow_heif.register_heif_opener()
    own, properties = heif_files.coded(photo(64, 64), form)
    if sets:
        extra = b"\x21" + struct.pack(">H", sets) + b"\0\2\x42\1" * sets
        properties = [
            heif_files.box(b"hvcC", each[8:30], bytes([each[30] + 1]), each[31:], extra)
            if each[4:8] == b"hvcC"
            else each
            for each in properties
        ]
    size = struct.pack(">II", 64 * tiles, 64)
    shape = heif_files.full(b"ispe", 0, size)
    told = bytes([0, 1, 0, tiles - 1]) + size
    shared = [each for each in properties if each[4:8] in {b"pixi", b"colr"}]
    kind = heif_files.CODES[form][1]
    items = [(b"grid", told, [shape, *shared]), *[(kind, item or own, properties)] * tiles]
    return heif_files.heif_file(form, items, more=more)


def references() -> bytes:
    """13 MB of references from one item to others."""
    numbers = struct.pack(">65000H", *range(2, 65_002))
    return heif_files.box(b"auxl", struct.pack(">HH", 2, 65_000), numbers) * 100


def rows_of(commands: bytes, bits: int = 8) -> bytes:
    """Return a bitmap of such rows of run lengths."""
    return in_runs((SIDE, SIDE), (commands + b"\0\0") * SIDE + b"\0\1", bits)


HAND_MADE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "TIFF: tiles of one stream": ("TIFF", tiles_of_one_stream),
    "TIFF: strips of one stream": ("TIFF", strips_of_one_stream),
    "TIFF: a tile of 0.5 GB": ("TIFF", lambda: one_huge_tile(4)),
    "TIFF: its width as a BYTE": ("TIFF", lambda: one_huge_tile(1)),
    "TIFF: 30 MB of fractions": (
        "TIFF", lambda: small("TIFF")[:4] + rationals()[4:],
    ),
    "PNG: 30 MB of EXIF": ("PNG", lambda: _png_with(png_chunk(b"eXIf", rationals()))),
    "PNG: 12 MB of empty chunks": ("PNG", lambda: _png_with(png_chunk(b"teSt", b"") * 1_000_000)),
    "PNG: 100 MB of text in 100 KB": (
        "PNG", lambda: _png_with(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9))),
    ),
    "WEBP: 30 MB of EXIF": ("WEBP", lambda: small("WEBP", exif=rationals())),
    "WEBP: 50 MP in 38 bytes": ("WEBP", lambda: webp_claiming(16_383, 3051)),
    "JPEG: 460 segments of EXIF": (
        "JPEG", lambda: _jpeg_with((b"\xff\xe1\xff\xff" + rationals()[:65_533]) * 460),
    ),
    "JPEG: 2 million segments": ("JPEG", lambda: _jpeg_with(b"\xff\xe4\0\2" * 2_000_000)),
    "JPEG: 200 scans": ("JPEG progressive", lambda: scans(200)),
    "JPEG: the same bits in 26 scans": ("JPEG progressive", lambda: scans(26)),
    "JPEG: as many scans as allowed": ("JPEG progressive", lambda: bands(31)),
    "JPEG: a warning at its end": ("JPEG", lambda: warned(b"\xff\xd9")),
    "JPEG: a warning at a restart": ("JPEG", lambda: warned(b"\xff\xd0", restart_marker_rows=1)),
    "JPEG: a warning between scans": (
        "JPEG progressive", lambda: warned(b"\xff\xc4", progressive=True),
    ),
    "JPEG: a sampling without a name": ("JPEG", unnamed_sampling),
    "GIF: 30 MB of blocks": (
        "GIF", lambda: _gif_with(b"!\xfe" + b"\x01x" * 15_000_000 + b"\0"),
    ),
    "BMP: 28 MB of steps": (
        "BMP run lengths", lambda: in_runs((64, 64), b"\0\2\0\0" * 7_000_000),
    ),
    "BMP: runs of a pixel": ("BMP run lengths", lambda: rows_of(b"\1\5" * SIDE)),
    "BMP: a step with each pixel": (
        "BMP run lengths", lambda: rows_of(b"\1\5\0\2\0\0" * SIDE),
    ),
    "BMP: three pixels as they are": (
        "BMP run lengths", lambda: rows_of(b"\0\3\0\x09\5\0" * (SIDE // 3)),
    ),
    "BMP: four bits, runs of a pixel": ("BMP run lengths", lambda: rows_of(b"\1\5" * SIDE, 4)),
    "BMP: runs beyond its rows": ("BMP run lengths", lambda: rows_of(b"\xff\5" * SIDE)),
    "TIFF JPEG: 2 MB of tables": (
        "TIFF JPEG", lambda: jpeg_strips(1000, (b"\xff\xfe\xff\xff" + bytes(65_533)) * 32),
    ),
    "TIFF JPEG: the same table 2000 times": (
        "TIFF JPEG", lambda: jpeg_strips(1000, (b"\xff\xdb\0C\0" + b"\1" * 64) * 2000),
    ),
    "TIFF JPEG: as many as allowed": ("TIFF JPEG", lambda: jpeg_strips(4000, b"")),
    "TIFF JPEG: very many": ("TIFF JPEG", lambda: jpeg_strips(4000, b"", 8)),
    "TIFF fax: 20,000 strips of a row": ("TIFF fax", lambda: fax_rows(20_000, 4)),
    "TIFF fax: as many strips as allowed": ("TIFF fax", lambda: fax_rows(1300, 4)),
    "TIFF fax of group 3: as many strips": (
        "TIFF fax of group 3", lambda: fax_rows(1300, 3),
    ),
    "TIFF fax: 13 MB behind its rows": (
        "TIFF fax", lambda: fax((64, 64), 4, [fax_codes(64, 4) * 20_000], 64),
    ),
    "TIFF fax of group 3: 13 MB behind": (
        "TIFF fax of group 3", lambda: fax((64, 64), 3, [fax_codes(64, 3) * 20_000], 64),
    ),
    "TIFF fax of group 3: 13 MB of zeros": (
        "TIFF fax of group 3", lambda: fax((64, 64), 3, [bytes(13_000_000)], 64),
    ),
    "AVIF: 13 MB of references": ("AVIF", lambda: heif_grid("AVIF", 3, more=references())),
    "AVIF: 18,000 empty units": (
        "AVIF", lambda: heif_grid("AVIF", 20, item=b"\x12\0" * 900),
    ),
    "HEIC: 13 MB of references": ("HEIC", lambda: heif_grid("HEIF", 3, more=references())),
    "HEIC: 65,000 shared parameters": ("HEIC", lambda: heif_grid("HEIF", 200, sets=65_000)),
    "HEIC: 18,000 empty units": (
        "HEIC", lambda: heif_grid("HEIF", 20, item=b"\0\0\0\2\x4e\1" * 900),
    ),
}  # fmt: skip


def _png_with(chunk: bytes) -> bytes:
    data = small("PNG")
    return data[:33] + chunk + data[33:]


def _jpeg_with(segments: bytes) -> bytes:
    data = small("JPEG")
    return data[:2] + segments + data[2:]


def _gif_with(blocks: bytes) -> bytes:
    data = encode(photo(64, 64).quantize(64), "GIF")
    palette_end = 13 + (3 << (data[10] & 7) + 1)
    return data[:palette_end] + blocks + data[palette_end:]

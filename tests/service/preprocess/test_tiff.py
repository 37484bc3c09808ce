"""TIFFs of every kind that is decoded, as another decoder reads them, and what is refused."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from images import encode, photo, smooth, tiff
from PIL import Image, TiffImagePlugin
from typing_extensions import Buffer

from service.contract import Preprocessing
from service.errors import RequestError
from service.preprocess import jpeg
from service.preprocess.decode import DecodePolicy, decode_upright, read
from service.preprocess.header import read_header

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
RULE = Preprocessing(resize=64, crop=64, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
HEIGHT, WIDTH = 37, 53
CHANNELS = {"miniswhite": 1, "minisblack": 1, "rgb": 3, "separated": 4}
EXTRA = [None, "assocalpha", "unassalpha", "unspecified"]
PACKED = ["lzw", "deflate", "packbits", "zstd", "lzma"]


def written(samples: np.ndarray, photometric: str, **options) -> bytes:
    """A TIFF by tifffile; `samples` are [height, width, channels]."""
    if options.get("planarconfig") == "separate":
        samples = np.moveaxis(samples, -1, 0)
    elif samples.shape[-1] == 1:
        samples = samples[..., 0]
    if options.get("extrasamples") is None:
        options.pop("extrasamples", None)
    if "tile" not in options:
        options.setdefault("rowsperstrip", 8)
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric=photometric, metadata=None, **options)
    return file.getvalue()


def noisy(channels: int, bits: int) -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [(x * 5 + y * 3 * (i + 1)) % 256 for i in range(channels)]
    values = np.stack(planes, -1) / 255 + np.random.default_rng(0).normal(
        scale=0.05, size=(HEIGHT, WIDTH, channels)
    )
    kind = np.uint8 if bits == 8 else np.uint16
    return (values.clip(0, 1) * (2**bits - 1)).round().astype(kind)


def colors(data: bytes, photometric: str, extra: str | None) -> np.ndarray:
    """What tifffile reads as colours on white, from 0 to 255."""
    samples = tifffile.imread(io.BytesIO(data))
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.shape[-1] == WIDTH:
        samples = np.moveaxis(samples, 0, -1)
    values = samples / np.iinfo(samples.dtype).max
    channels = CHANNELS[photometric]
    color = values[..., :channels]
    if photometric == "miniswhite":
        color = 1 - color
    if photometric == "separated":
        color = (1 - color[..., :3]) * (1 - color[..., 3:])
    alpha = values[..., channels : channels + 1]
    if extra == "assocalpha":
        color = np.minimum(color, alpha) + 1 - alpha
    if extra == "unassalpha":
        color = color * alpha + 1 - alpha
    return 255 * np.broadcast_to(color, (HEIGHT, WIDTH, 3))


def check(data: bytes, expected: np.ndarray, allowed: float) -> None:
    found = np.asarray(decode_upright(data, POLICY))
    assert np.abs(found - expected).max() <= allowed


@pytest.mark.parametrize("compression", [None, *PACKED])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", CHANNELS)
def test_tiffs_are_what_another_decoder_reads(photometric, bits, compression):
    """In both orders, in strips and tiles, with planes, predictors and alpha of each kind."""
    predictors = [False] if compression in {None, "packbits"} else [False, True]
    for extra, planar, order, tile, predictor in itertools.product(
        EXTRA, ["contig", "separate"], "<>", [None, (16, 32)], predictors
    ):
        if photometric == "separated" and extra == "assocalpha":
            continue  # inks times alpha: nobody says of what
        if compression == "lzma" and (planar, tile) != ("contig", None):
            continue  # tifffile takes its time to write it
        channels = CHANNELS[photometric] + (extra is not None)
        options = {"compression": compression, "byteorder": order, "extrasamples": extra}
        if channels > 1:
            options["planarconfig"] = planar
        elif planar == "separate":
            continue
        if tile:
            options["tile"] = tile
        if predictor:
            options["predictor"] = True
        data = written(noisy(channels, bits), photometric, **options)
        check(data, colors(data, photometric, extra), 3.6 if extra else 1.3)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_big_tiff_is_read_as_a_small_one(compression):
    for order, tile in itertools.product("<>", [{}, {"tile": (16, 16)}]):
        data = written(
            noisy(3, 8), "rgb", bigtiff=True, byteorder=order, compression=compression, **tile
        )
        check(data, colors(data, "rgb", None), 0)


@pytest.mark.parametrize("tile", [{}, {"tile": (16, 16)}])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb", "separated"])
def test_jpegs_in_a_tiff_are_decoded(photometric, tile):
    channels = CHANNELS[photometric]
    samples = np.asarray(smooth(64, 48))
    samples = np.dstack([samples, samples[..., :1] // 4])[..., :channels]
    data = written(samples, photometric, compression="jpeg", compressionargs={"level": 95}, **tile)
    wanted = (
        samples
        if channels == 3
        else np.asarray(
            Image.fromarray(samples.squeeze(), "CMYK" if channels == 4 else "L").convert("RGB")
        )
    )
    check(data, wanted.astype(float), 16)


def test_a_subsampled_jpeg_in_a_tiff_is_decoded():
    picture = smooth(64, 48)
    check(encode(picture, "TIFF", compression="jpeg"), np.asarray(picture).astype(float), 12)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_compressions_are_unpacked(compression):
    picture = photo(70, 50).convert("1")
    data = encode(picture, "TIFF", compression=compression)
    assert np.array_equal(
        np.asarray(decode_upright(data, POLICY))[..., 0], np.asarray(picture) * 255
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("samples", [1, 3])
def test_less_than_8_bits_are_scaled(bits, compression, samples):
    """Rows end with a byte; three samples are packed without gaps."""
    values = np.random.default_rng(bits).integers(0, 1 << bits, (5, 7, samples), np.uint8)
    planes = values.reshape(5, -1)[..., None] >> np.arange(bits - 1, -1, -1) & 1
    packed = np.packbits(planes.reshape(5, -1).astype(np.uint8), axis=1).tobytes()
    data = tiff(
        zlib.compress(packed) if compression == 8 else packed,
        width=7, height=5, bits=[bits] * samples, samples=samples,
        photometric=2 if samples == 3 else 1, compression=compression,
    )  # fmt: skip
    check(data, np.broadcast_to(values * (255 / ((1 << bits) - 1)), (5, 7, 3)), 0)


@pytest.mark.parametrize("compression", [1, 8])
def test_12_bits_of_an_odd_width_are_scaled(compression):
    values = np.random.default_rng(0).integers(0, 4096, (4, 5))
    bits = (values[..., None] >> np.arange(11, -1, -1) & 1).reshape(4, -1).astype(np.uint8)
    packed = np.packbits(bits, axis=1).tobytes()
    data = tiff(
        zlib.compress(packed) if compression == 8 else packed,
        width=5, height=4, bits=[12], photometric=1, compression=compression,
    )  # fmt: skip
    check(data, np.broadcast_to((values * 255 / 4095).round()[..., None], (4, 5, 3)), 0)


@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_of_8_or_16_bits_gives_its_colors(scale):
    palette = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    index = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(file, index, photometric="palette", colormap=palette * scale)
    check(file.getvalue(), palette.T[index].astype(float), 0)


def test_plain_ycbcr_becomes_rgb():
    picture = smooth(32, 24)
    ycbcr = np.asarray(picture.convert("YCbCr"))
    data = tiff(
        ycbcr.tobytes(), width=32, height=24, bits=[8] * 3, samples=3, photometric=6,
        subsampling=[1, 1],
    )  # fmt: skip
    check(data, np.asarray(picture).astype(float), 3)


def blocks(picture: Image.Image, across: int, down: int) -> np.ndarray:
    """Bytes [rows of blocks, blocks, across x down + 2]: brightnesses, then Cb and Cr."""
    ycbcr = np.asarray(picture.convert("YCbCr")).astype(int)
    height, width, _ = ycbcr.shape
    ycbcr = np.pad(ycbcr, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    cells = ycbcr.reshape(ycbcr.shape[0] // down, down, -1, across, 3).swapaxes(1, 2)
    light = cells[..., 0].reshape(*cells.shape[:2], -1)
    return np.concatenate([light, cells[..., 1:].mean(axis=(2, 3))], -1).astype(np.uint8)


SUBSAMPLED = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (4, 4)]


@pytest.mark.parametrize("compression", [1, 5, 8])
@pytest.mark.parametrize("block", SUBSAMPLED)
def test_subsampled_ycbcr_is_what_libtiff_makes_of_it(block, compression):
    stored = blocks(smooth(21, 13), *block).tobytes()
    packers: dict[int, Callable[[bytes], Buffer]] = {
        1: bytes, 5: imagecodecs.lzw_encode, 8: zlib.compress,
    }  # fmt: skip
    pack = packers[compression]
    data = tiff(
        bytes(pack(stored)), width=21, height=13, bits=[8] * 3, samples=3, photometric=6,
        compression=compression, subsampling=list(block),
    )  # fmt: skip
    expected = imagecodecs.tiff_decode(data, asrgb=True)[..., :3]
    check(data, expected.astype(float), 1)


@pytest.mark.parametrize("block", SUBSAMPLED)
def test_subsampled_ycbcr_may_be_in_tiles(block):
    tile = blocks(smooth(32, 16), *block)
    data = tiff(
        tile.tobytes(), width=25, height=13, bits=[8] * 3, samples=3, photometric=6,
        tile_width=32, tile_height=16, subsampling=list(block),
    )  # fmt: skip
    strip = tiff(
        tile.tobytes(), width=32, height=16, bits=[8] * 3, samples=3, photometric=6,
        subsampling=list(block),
    )  # fmt: skip
    expected = imagecodecs.tiff_decode(strip, asrgb=True)[:13, :25, :3]
    check(data, expected.astype(float), 1)
    assert read(data, 32 * 16).pixels == 32 * 16


@pytest.mark.parametrize("compression", [*PACKED, None])
@pytest.mark.parametrize("rows", [None, 0, 2**32 - 1])
def test_a_strip_may_have_no_length_and_no_number_of_rows(compression, rows):
    """Libtiff has it end with the file."""
    samples = noisy(1, 8)
    file = io.BytesIO()
    tifffile.imwrite(
        file, samples[..., 0], compression=compression, rowsperstrip=HEIGHT, metadata=None
    )
    data = without(file.getvalue(), 279, *([278] if rows is None else []))
    if rows is not None:
        data = with_value(data, 278, rows)
    check(data, samples.astype(float).repeat(3, -1), 0)


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits"])
def test_strips_without_lengths_end_where_the_next_begins(compression):
    samples = noisy(1, 8)
    data = without(written(samples, "minisblack", compression=compression), 279)
    check(data, samples.astype(float).repeat(3, -1), 0)


def without(data: bytes, *tags: int) -> bytes:
    """A TIFF whose tags have become private ones, which nobody reads."""
    return _edited(data, {tag: (65_000 + i, None) for i, tag in enumerate(tags)})


def with_value(data: bytes, tag: int, value: int) -> bytes:
    return _edited(data, {tag: (tag, value)})


def _edited(data: bytes, changes: dict[int, tuple[int, int | None]]) -> bytes:
    out = bytearray(data)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, *_ = struct.unpack_from("<H", data, place)
        if tag in changes:
            number, value = changes[tag]
            struct.pack_into("<H", out, place, number)
            if value is not None:
                struct.pack_into("<HII", out, place + 2, 4, 1, value)
    return bytes(out)


def test_a_fourth_sample_of_rgb_is_alpha_unless_told_otherwise():
    """As Pillow has it; many writers of RGBA leave the tag out."""
    samples = noisy(4, 8)
    named = written(samples, "rgb", extrasamples="unassalpha")
    check(without(named, 338), colors(named, "rgb", "unassalpha"), 2)
    unspecified = written(samples, "rgb", extrasamples="unspecified")
    check(unspecified, samples[..., :3].astype(float), 0)


def test_bits_in_the_other_order_are_turned_round():
    row = np.array([[0b10000000, 0b00000001]], np.uint8)
    data = tiff(row.tobytes(), width=16, height=1, bits=[1], photometric=1, fill_order=2)
    found = np.asarray(decode_upright(data, POLICY))[0, :, 0]
    assert found.tolist() == [0] * 7 + [255, 255] + [0] * 7


OF = {"width": 8, "height": 8}
UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "signed": ({"bits": [16], "photometric": 1, "sample_format": 2}, "16-bit signed integers"),
    "floats": ({"bits": [32], "photometric": 1, "sample_format": 3}, "32-bit floats"),
    "32 bits": ({"bits": [32], "photometric": 1}, "32 bits per sample"),
    "mixed bits": ({"bits": [5, 6, 5], "samples": 3, "photometric": 2}, "5, 6, 5 bits per sample"),
    "Lab": ({"bits": [8] * 3, "samples": 3, "photometric": 8}, "CIE L"),
    "raw": ({"bits": [16], "photometric": 32803}, "raw sensor data"),
    "subsampled planes": (
        {"bits": [8] * 3, "samples": 3, "photometric": 6, "planar": 2}, "subsampled YCbCr in planes"
    ),
    "large blocks": (
        {"bits": [8] * 3, "samples": 3, "photometric": 6, "subsampling": [8, 1]}, "blocks of 8 x 1"
    ),
    "old JPEG": ({"bits": [8], "photometric": 1, "compression": 6}, "old-style JPEG"),
    "JPEG 2000": ({"bits": [8], "photometric": 1, "compression": 34712}, "JPEG 2000"),
    "inks": ({"bits": [8] * 4, "samples": 4, "photometric": 5, "ink_set": 2}, "inks other than"),
    "predictor": ({"bits": [4], "photometric": 1, "compression": 8, "predictor": 2}, "predictor 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_is_not_decoded_is_refused_by_name(kind):
    """A whole file that is not supported is not called corrupt."""
    tags, name = UNSUPPORTED[kind]
    with pytest.raises(RequestError, match=name) as refusal:
        decode_upright(tiff(bytes(8 * 8 * 16), **OF, **tags), POLICY)
    assert refusal.value.code == "unsupported_pixels"


# What libtiff and Pillow would each read in their own way


def entry(tag: int, kind: int, value: int, count: int = 1) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


def grey(*more: bytes, width: bytes = entry(256, 4, 64)) -> bytes:
    packed = zlib.compress(b"\x80" * 4096)
    entries = [
        width, entry(257, 4, 64), entry(258, 3, 8), entry(259, 3, 8), entry(262, 3, 1), *more,
    ]  # fmt: skip
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [entry(273, 4, at), entry(279, 4, len(packed))]
    return struct.pack("<4sIH", b"II*\0", 8, len(entries)) + b"".join(entries) + bytes(4) + packed


def code(data: bytes) -> str:
    try:
        decode_upright(data, POLICY)
    except RequestError as error:
        return error.code
    return "answered"


def test_a_tag_that_is_there_twice_is_refused():
    """One reader takes the first, another the last."""
    assert code(grey()) == "answered"
    assert code(grey(entry(256, 4, 60_000))) == "corrupt_image"


@pytest.mark.parametrize("kind", [2, 5, 7, 11, 12, 99])
def test_a_tag_of_a_type_that_is_no_integer_is_refused(kind):
    assert code(grey(width=entry(256, kind, 64))) == "corrupt_image"


@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9, 13])
def test_a_tag_of_any_integer_type_counts(kind):
    data = grey(width=entry(256, kind, 64))
    assert code(data) == "answered"
    assert read_header(data, RULE, 0).width == 64


@pytest.mark.parametrize(("kind", "form"), [(6, "b"), (8, "h"), (9, "i"), (16, "Q"), (17, "q")])
@pytest.mark.parametrize("order", "<>")
def test_sizes_of_a_big_tiff_may_be_of_any_integer_type(order, kind, form):
    """A planner reads them as the decoder does."""
    data = bytearray(written(noisy(1, 8), "minisblack", bigtiff=True, byteorder=order))
    directory = struct.unpack_from(f"{order}Q", data, 8)[0]
    for at in range(directory + 8, directory + 8 + 20 * 2 + 1, 20):
        tag, _, count, value = struct.unpack_from(f"{order}HHQI", data, at)
        if tag in {256, 257}:
            value = value if order == "<" else struct.unpack_from(">H", data, at + 12)[0]
            packed = struct.pack(order + form, WIDTH if tag == 256 else HEIGHT).ljust(8, b"\0")
            struct.pack_into(f"{order}HHQ8s", data, at, tag, kind, count, packed)
    check(bytes(data), colors(bytes(data), "minisblack", None), 0)
    header = read_header(bytes(data), RULE, 0)
    assert (header.width, header.height) == (WIDTH, HEIGHT)


def test_a_negative_size_is_corrupt():
    assert code(grey(width=entry(256, 9, 0xFFFFFFC0))) == "corrupt_image"


def test_a_tag_that_does_not_count_may_be_broken():
    """Its values lie beyond the file: some writers' private tags do."""
    assert code(grey(entry(282, 5, 0x7FFFFF00))) == "answered"
    assert code(grey(entry(34665, 4, 0x7FFFFF00))) == "answered"


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("before", [b"", entry(282, 5, 0x7FFFFF00)])
def test_a_tile_far_larger_than_the_image_is_refused_however_it_is_told(kind, before):
    packed = zlib.compress(b"\x80" * 1000)
    entries = [
        entry(256, 4, 64), entry(257, 4, 64), entry(258, 3, 8), entry(259, 3, 8),
        entry(262, 3, 1), *([before] if before else []), entry(322, kind, 128),
        entry(323, 4, 4_000_000),
    ]  # fmt: skip
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [entry(324, 4, at), entry(325, 4, len(packed))]
    data = struct.pack("<4sIH", b"II*\0", 8, len(entries)) + b"".join(entries) + bytes(4) + packed
    assert code(data) == "image_too_large"


def test_tiles_that_share_one_stream_are_refused():
    """A row of 65,535 pixels in 4096 tiles, each three million pixels high."""
    packed = zlib.compress(b"\x80" * 1000)
    count = 4096
    entries = [
        entry(256, 4, 65_535), entry(257, 4, 1), entry(258, 3, 8), entry(259, 3, 8),
        entry(262, 3, 1), entry(322, 4, 16), entry(323, 4, 3_124_992),
    ]  # fmt: skip
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [entry(324, 4, at, count), entry(325, 4, at + 4 * count, count)]
    data = struct.pack("<4sIH", b"II*\0", 8, len(entries)) + b"".join(entries) + bytes(4)
    data += struct.pack(f"<{count}I", *[at + 8 * count] * count)
    data += struct.pack(f"<{count}I", *[len(packed)] * count)
    assert code(data + packed) == "image_too_large"


def test_the_pixels_of_whole_tiles_count():
    data = written(noisy(3, 8), "rgb", tile=(1024, 1024), compression="deflate")
    assert read(data, 1024 * 1024).pixels == 1024 * 1024
    assert code(data) == "image_too_large", "of more than are allowed"


def test_a_jpeg_in_a_tiff_must_be_of_its_size():
    """Libjpeg makes room for what the JPEG says."""
    data = written(np.asarray(smooth(64, 48)), "rgb", compression="jpeg")
    at = data.index(b"\xff\xc0")
    larger = data[: at + 5] + struct.pack(">HH", 60_000, 60_000) + data[at + 9 :]
    assert code(data) == "answered"
    assert code(larger) == "corrupt_image"


def test_a_tiff_that_lacks_tiles_is_refused_by_name():
    """Their place is 0: what stands there is the file's head."""
    tile = np.full((16, 16), 77, np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(
        file, iter([tile, tile, None, tile]), shape=(32, 32), dtype="u1", tile=(16, 16),
        photometric="minisblack",
    )  # fmt: skip
    with pytest.raises(RequestError, match="lack some of their strips or tiles") as refusal:
        decode_upright(file.getvalue(), POLICY)
    assert refusal.value.code == "unsupported_pixels"


def test_very_many_tiles_of_a_pixel_are_refused():
    side = 300
    parts = side * side
    entries = [
        entry(256, 4, side), entry(257, 4, side), entry(258, 3, 8), entry(259, 3, 1),
        entry(262, 3, 1), entry(322, 3, 1), entry(323, 3, 1),
    ]  # fmt: skip
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [entry(324, 3, at, parts), entry(325, 1, at + 2 * parts, parts)]
    data = struct.pack("<4sIH", b"II*\0", 8, len(entries)) + b"".join(entries) + bytes(4)
    data += struct.pack("<H", 100) * parts + b"\1" * parts
    assert code(data) == "corrupt_image"


def test_a_jpeg_in_a_tiff_has_its_own_order_of_bits():
    picture = smooth(32, 32).convert("L")
    packed = encode(picture, "JPEG", quality=95)
    data = tiff(packed, width=32, height=32, bits=[8], photometric=1, compression=7, fill_order=2)
    check(data, np.asarray(picture)[..., None].repeat(3, -1).astype(float), 8)


def with_tables(pieces: int, tables: bytes) -> bytes:
    """A grey TIFF of JPEG strips of 64 x 8 pixels, with these tables before those that count."""
    file = encode(smooth(64, 8).convert("L"), "TIFF", compression="jpeg")
    with Image.open(io.BytesIO(file)) as image:
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        shared, (at,), (length,) = (image.tag_v2[tag] for tag in (347, 273, 279))
    part = file[at : at + length]
    whole = shared[:2] + tables + shared[2:]
    out = io.BytesIO()
    tifffile.imwrite(
        out, iter([part] * pieces), shape=(8 * pieces, 64), dtype="u1", compression="jpeg",
        rowsperstrip=8, photometric="minisblack", jpegtables=whole, metadata=None,
    )  # fmt: skip
    return out.getvalue()


def test_tables_that_jpeg_strips_share_may_have_a_comment():
    assert code(with_tables(9, b"\xff\xfe\0\6note")) == "answered"


def test_the_tables_that_jpeg_strips_share_are_gone_through_once(monkeypatch):
    """Each strip gets nothing of them but what a JPEG can have."""
    begun = list[int]()
    monkeypatch.setattr(jpeg.JpegImage, "check_whole", lambda image: begun.append(len(image.data)))
    comment = b"\xff\xfe\xff\xff" + bytes(65_533)
    assert code(with_tables(9, comment * 20)) == "answered"
    assert len(begun) == 9
    assert max(begun) < 5000


@pytest.mark.parametrize("segment", [b"\xff\xdb\0C\0" + b"\1" * 64, b"\xff\xfe\0\2"])
def test_tables_that_jpeg_strips_share_are_as_many_as_a_jpeg_has(segment):
    assert code(with_tables(9, segment * 4)) == "answered"
    assert code(with_tables(9, segment * 70)) == "corrupt_image"


def test_very_many_small_jpegs_in_a_tiff_are_refused_by_name():
    """To begin one takes as long as a thousand pixels."""
    picture = np.asarray(smooth(16, 4800).convert("L"))
    few = written(picture[:4000, :, None], "minisblack", compression="jpeg", rowsperstrip=16)
    many = written(picture[..., None], "minisblack", compression="jpeg", rowsperstrip=8)
    assert code(few) == "answered"
    assert "600 JPEGs" in refusal_of(many)


def refusal_of(data: bytes) -> str:
    with pytest.raises(RequestError) as refusal:
        decode_upright(data, POLICY)
    assert refusal.value.code == "unsupported_pixels"
    return str(refusal.value)


def test_a_jpeg_in_a_tiff_in_very_many_segments_is_refused():
    """Each of very many parts could have some thousands."""
    part = encode(smooth(64, 48).convert("L"), "JPEG", quality=90)
    of = {"width": 64, "height": 48, "bits": [8], "photometric": 1, "compression": 7}
    for count, found in ((100, "answered"), (130, "corrupt_image")):
        assert code(tiff(part[:2] + b"\xff\xfe\0\2" * count + part[2:], **of)) == found

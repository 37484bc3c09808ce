"""TIFFs of every kind that is decoded, as another decoder reads them, and what is refused."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import tifffile
from images import encode, photo, smooth, tiff
from PIL import Image

from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode_upright, read

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
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
        options["rowsperstrip"] = 8
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


def test_bits_in_the_other_order_are_turned_round():
    row = np.array([[0b10000000, 0b00000001]], np.uint8)
    data = tiff(row.tobytes(), width=16, height=1, bits=[1], photometric=1, fill_order=2)
    found = np.asarray(decode_upright(data, POLICY))[0, :, 0]
    assert found.tolist() == [0] * 7 + [255, 255] + [0] * 7


OF = {"width": 8, "height": 8}
UNSUPPORTED = {
    "signed": ({"bits": [16], "photometric": 1, "sample_format": 2}, "16 bits as signed integers"),
    "floats": ({"bits": [32], "photometric": 1, "sample_format": 3}, "32 bits as floats"),
    "32 bits": ({"bits": [32], "photometric": 1}, "32 bits a sample"),
    "mixed bits": ({"bits": [5, 6, 5], "samples": 3, "photometric": 2}, "5, 6, 5 bits a sample"),
    "Lab": ({"bits": [8] * 3, "samples": 3, "photometric": 8}, "CIE L"),
    "raw": ({"bits": [16], "photometric": 32803}, "raw sensor data"),
    "subsampled": ({"bits": [8] * 3, "samples": 3, "photometric": 6}, "subsampled YCbCr"),
    "old JPEG": ({"bits": [8], "photometric": 1, "compression": 6}, "old-style JPEG"),
    "JPEG 2000": ({"bits": [8], "photometric": 1, "compression": 34712}, "JPEG 2000"),
    "inks": ({"bits": [8] * 4, "samples": 4, "photometric": 5, "ink_set": 2}, "other inks"),
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


@pytest.mark.parametrize("kind", [2, 5, 6, 8, 11, 12, 99])
def test_a_tag_of_a_type_that_is_no_integer_is_refused(kind):
    assert code(grey(width=entry(256, kind, 64))) == "corrupt_image"


@pytest.mark.parametrize("kind", [1, 3, 4, 13])
def test_a_tag_of_any_integer_type_counts(kind):
    assert code(grey(width=entry(256, kind, 64))) == "answered"


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

"""Honest images of every kind that is decoded, as encoders write them."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable
from functools import cache

import numpy as np
import pillow_heif
import tifffile
from PIL import Image


@cache
def photo(width: int, height: int) -> Image.Image:
    """Make a picture of soft light and some grain."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    light = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = random.integers(-9, 10, (min(height, 300), min(width, 400), 1), np.int16)
    tiles = (-(-height // grain.shape[0]), -(-width // grain.shape[1]), 1)
    return Image.fromarray(
        (light + np.tile(grain, tiles)[:height, :width]).clip(0, 255).astype(np.uint8)
    )


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    """Return an array as a TIFF."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def with_alpha(image: Image.Image) -> Image.Image:
    """Return an image with a soft alpha."""
    return Image.merge("RGBA", (*image.split(), image.getchannel(0)))


def turned(orientation: int = 6) -> Image.Exif:
    """Return EXIF data that turn an image."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def deep(image: Image.Image) -> np.ndarray:
    """Return 16 bits a channel."""
    return np.asarray(image).astype(np.uint16) * 257


def in_runs(size: tuple[int, int], data: bytes, bits: int = 8) -> bytes:
    """Return a grey bitmap of run lengths."""
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, 1 if bits == 8 else 2, 0, 0, 0, 0, 0)
    step = 255 // ((1 << bits) - 1)
    palette = b"".join(bytes([value * step] * 3) + b"\0" for value in range(1 << bits))
    start = 14 + len(head) + len(palette)
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, start) + head + palette + data


def run_lengths(image: Image.Image) -> bytes:
    """Return a bitmap in run lengths, whose rows are some of the image's again and again."""
    rows = np.asarray(image)[:: max(1, image.height // 64)]
    packed = [_row_of_runs(row.tolist()) for row in rows]
    data = b"".join(packed[i % len(packed)] for i in range(image.height))
    return in_runs(image.size, data + b"\0\1")


def _row_of_runs(row: list[int]) -> bytes:
    """Pack a row as encoders do: runs of three pixels and more, and what lies between as it is."""
    runs = [(value, len([*same])) for value, same in itertools.groupby(row)]
    packed, between = bytearray(), bytearray()
    for value, length in [*runs, (0, 0)]:
        if 0 < length < 3:
            between += bytes([value]) * length
            continue
        for at in range(0, len(between), 254):
            some = between[at : at + 254]
            as_they_are = bytes([0, len(some)]) + some + b"\0" * (len(some) % 2)
            one_by_one = b"".join(bytes([1, each]) for each in some)
            packed += as_they_are if len(some) > 2 else one_by_one
        between.clear()
        for at in range(0, length, 255):
            packed += bytes([min(255, length - at), value])
    return bytes(packed) + b"\0\0"


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    """Return an entry of a TIFF's directory."""
    return struct.pack("<HHII", tag, kind, count, value)


def subsampled(image: Image.Image) -> bytes:
    """Return a TIFF of YCbCr in blocks of 2 x 2 pixels, not packed."""
    width, height = image.width // 2 * 2, image.height // 2 * 2
    values = np.asarray(image.crop((0, 0, width, height)).convert("YCbCr"))
    cells = values.reshape(height // 2, 2, width // 2, 2, 3).swapaxes(1, 2)
    light = cells[..., 0].reshape(height // 2, width // 2, 4)
    data = np.concatenate([light, cells[:, :, 0, 0, 1:]], axis=-1).tobytes()
    at = 8 + 2 + 12 * 9 + 4
    entries = [
        entry(256, 4, 1, width), entry(257, 4, 1, height), entry(258, 3, 3, at),
        entry(259, 3, 1, 1), entry(262, 3, 1, 6), entry(273, 4, 1, at + 8), entry(277, 3, 1, 3),
        entry(279, 4, 1, len(data)), entry(530, 3, 2, 2 | 2 << 16),
    ]  # fmt: skip
    head = struct.pack("<4sIH", b"II*\0", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + struct.pack("<4H", 8, 8, 8, 0) + data


def heic(image: Image.Image) -> bytes:
    """Return an image as a HEIC."""
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=80)
    return file.getvalue()


HONEST: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": lambda p: encode(p, "PNG", compress_level=1),
    "PNG turned": lambda p: encode(p, "PNG", compress_level=1, exif=turned()),
    "PNG grey": lambda p: encode(p.convert("L"), "PNG", compress_level=1),
    "PNG palette": lambda p: encode(p.quantize(64), "PNG", compress_level=1),
    "PNG transparent palette": lambda p: encode(p.quantize(64), "PNG", transparency=3),
    "PNG RGBA": lambda p: encode(with_alpha(p), "PNG", compress_level=1),
    "PNG grey and alpha": lambda p: encode(with_alpha(p).convert("LA"), "PNG", compress_level=1),
    "PNG 16-bit grey": lambda p: encode(Image.fromarray(deep(p.convert("L"))), "PNG"),
    "JPEG": lambda p: encode(p, "JPEG"),
    "JPEG CMYK": lambda p: encode(p.convert("CMYK"), "JPEG"),
    "JPEG progressive": lambda p: encode(p, "JPEG", progressive=True, subsampling=0),
    "JPEG progressive CMYK": lambda p: encode(p.convert("CMYK"), "JPEG", progressive=True),
    "GIF": lambda p: encode(p.quantize(64), "GIF"),
    "GIF transparent": lambda p: encode(p.quantize(64), "GIF", transparency=3),
    "WEBP": lambda p: encode(p, "WEBP", method=0),
    "WEBP RGBA": lambda p: encode(with_alpha(p), "WEBP", method=0),
    "WEBP lossless RGBA": lambda p: encode(with_alpha(p), "WEBP", lossless=True, method=0),
    "BMP": lambda p: encode(p, "BMP"),
    "BMP palette": lambda p: encode(p.quantize(64), "BMP"),
    "BMP run lengths": lambda p: run_lengths(p.quantize(64)),
    "BMP RGBA": lambda p: encode(with_alpha(p), "BMP"),
    "TIFF": lambda p: encode(p, "TIFF"),
    "TIFF LZW": lambda p: encode(p, "TIFF", compression="tiff_lzw"),
    "TIFF deflate, predictor": lambda p: tiff(np.asarray(p), compression="deflate", predictor=True),
    "TIFF fax": lambda p: encode(p.convert("1"), "TIFF", compression="group4"),
    "TIFF fax of group 3": lambda p: encode(p.convert("1"), "TIFF", compression="group3"),
    "TIFF RGBA": lambda p: encode(with_alpha(p), "TIFF"),
    "TIFF 16-bit": lambda p: tiff(deep(p), photometric="rgb"),
    "TIFF 16-bit planes": lambda p: tiff(
        np.moveaxis(deep(p), -1, 0), photometric="rgb", planarconfig="separate",
        compression="deflate",
    ),
    "TIFF CMYK": lambda p: encode(p.convert("CMYK"), "TIFF"),
    "TIFF tiles": lambda p: tiff(np.asarray(p), compression="deflate", tile=(256, 256)),
    "TIFF subsampled YCbCr": subsampled,
    "TIFF JPEG": lambda p: encode(p, "TIFF", compression="jpeg"),
    "AVIF": lambda p: encode(p, "AVIF", speed=10),
    "AVIF RGBA": lambda p: encode(with_alpha(p), "AVIF", speed=10),
    "HEIC": heic,
}  # fmt: skip

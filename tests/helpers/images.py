"""Encoded images for tests."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import httpx
import numpy as np
from PIL import Image

COLOR_VALUES = {"red": (220, 30, 20), "green": (25, 210, 40), "blue": (10, 40, 230)}


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def colored(
    color: str = "red", size: tuple[int, int] = (20, 12), image_format: str = "PNG"
) -> bytes:
    """Return an image of one colour, which the color model names."""
    return encode(Image.new("RGB", size, COLOR_VALUES[color]), image_format)


def top_label(response: httpx.Response) -> str:
    return str(response.json()["results"][0]["labels"][0]["label"])


def photo(width: int = 500, height: int = 375, seed: int = 0) -> Image.Image:
    """Return something like a photo: soft light, objects with hard edges, stripes and grain."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    pixels = np.full((height, width, 3), random.uniform(60, 190, 3))
    for cells, strength in ((3, 45), (9, 25), (40, 12)):
        grid = Image.fromarray(random.integers(0, 256, (cells, cells), dtype=np.uint8))
        light = grid.resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(light, dtype=float)[..., None] / 128 - 1) * strength
    for _ in range(12):
        across, down, radius, shape = random.uniform((0, 0, 0.03, 0.5), (1, 0.75, 0.2, 2))
        inside = (x - across) ** 2 + ((y - down) * shape) ** 2 < radius**2
        waves = np.sin((x[inside] + y[inside] * shape) * random.uniform(50, 300))
        pixels[inside] = random.uniform(20, 235, 3) + 25 * waves[:, None]
    pixels += random.normal(scale=4, size=(height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return slowly changing random colours, which show rounding but not aliasing."""
    grid = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)


def plain_pixels(
    image: Image.Image,
    resize: int,
    crop: int,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Apply torchvision's Resize and CenterCrop to an upright RGB image, in two steps."""
    width, height = image.size
    short, long = sorted(image.size)
    new_long = int(resize * long / short)
    size = (resize, new_long) if width <= height else (new_long, resize)
    resized = image.resize(size, resampling)
    left, top = round((size[0] - crop) / 2.0), round((size[1] - crop) / 2.0)
    return np.asarray(resized.crop((left, top, left + crop, top + crop)))


# Hand-made files that no encoder writes.


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], bits: int, color_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """Return a PNG of `rows` (each with its filter byte); `chunks` come before the pixels."""
    header = struct.pack(">IIBBBBB", *size, bits, color_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), *chunks,
            png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND"),
        ]
    )  # fmt: skip


def tiff(pixels: bytes, order: str = "<", /, **tags: Any) -> bytes:
    """Return a TIFF with one strip, or one tile if it has `tile_width`; values default to 32-bit.

    `tags` are those below, for example `tiff(data, width=4, height=4, bits=[16], photometric=1)`.
    """
    where = "tile_offsets" if "tile_width" in tags else "strip_offsets"
    counts = "tile_bytes" if "tile_width" in tags else "strip_bytes"
    tags = {"compression": 1, "samples": 1} | tags | {where: 0, counts: len(pixels)}
    entries = sorted((_TIFF_TAGS[name], name, np.atleast_1d(value)) for name, value in tags.items())
    directory, outside, outside_at = b"", b"", 8 + 2 + 12 * len(entries) + 4
    total_outside = sum(4 * len(values) for _, _, values in entries if len(values) > 1)
    for tag, name, values in entries:
        if name == where:
            values = np.array([outside_at + total_outside])  # noqa: PLW2901
        packed = struct.pack(f"{order}{len(values)}I", *values)
        directory += struct.pack(f"{order}HHI", tag, 4, len(values))
        if len(values) > 1:
            directory += struct.pack(f"{order}I", outside_at + len(outside))
            outside += packed
        else:
            directory += packed
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(f"{order}IH", 8, len(entries))
    return head + directory + struct.pack(f"{order}I", 0) + outside + pixels


_TIFF_TAGS = {
    "width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262,
    "strip_offsets": 273, "samples": 277, "strip_bytes": 279, "tile_width": 322,
    "tile_height": 323, "tile_offsets": 324, "tile_bytes": 325, "extra_samples": 338,
    "sample_format": 339, "fill_order": 266, "predictor": 317, "ink_set": 332, "planar": 284,
    "subsampling": 530,
}  # fmt: skip


def claiming(image_format: str, width: int, height: int) -> bytes:
    """Return a file whose header claims a size, followed by next to nothing."""
    if image_format == "PNG":
        return png((width, height), 8, 2, b"")
    if image_format == "JPEG":
        head, _, rest = encode(Image.new("RGB", (8, 8)), "JPEG").partition(b"\xff\xc0")
        return head + b"\xff\xc0" + rest[:3] + struct.pack(">HH", height, width) + rest[7:]
    if image_format == "GIF":
        return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0," + struct.pack(
            "<HHHH", 0, 0, width, height
        ) + b"\0\x02\x02D\x01\0;"  # fmt: skip
    if image_format == "BMP":
        sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + sizes
    if image_format == "TIFF":
        return tiff(b"", width=width, height=height, bits=[8], photometric=1)
    if image_format == "WEBP":
        sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + sizes
        return b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    raise ValueError(image_format)

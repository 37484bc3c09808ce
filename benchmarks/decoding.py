"""What decoding takes: of honest images in every kind, and of files made to take far more.

    python benchmarks/decoding.py [--megapixels N] [--only WORD]...

Each file is read and decoded in a process of its own. Memory is the peak above what the process had
before, beside the estimate that `max_decoding_bytes` is counted with, which must not be lower. Each
hand-made file is compared with an honest image of its format and as many pixels (at least 64 x 64):
it may take twice the time, 10 ms, and 2 ms for each MB of the file; and its memory, 20 MB and once
the file. The exit status is 1 if any takes more.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from service.bench.text_report import table
from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode_upright, prepare_decoding, read

POLICY = DecodePolicy(max_image_pixels=178_000_000, jpeg_draft_ratio=0)
SERVED = DecodePolicy(max_image_pixels=50_000_000, jpeg_draft_ratio=0)
MB = 2**20


@dataclass(frozen=True)
class Taken:
    """What a file took: its answer, processor seconds, and MB at the peak beside the estimate."""

    answer: str
    seconds: float
    peak: float
    estimate: float
    pixels: int


def take(data: bytes, policy: DecodePolicy) -> Taken:
    """Decode in a child process, whose peak of memory begins with the decoding."""
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before, start = _memory("VmRSS"), time.process_time()
        answer, estimate, pixels = "200", 0.0, 0
        try:
            image = read(data, policy.max_image_pixels)
            estimate, pixels = image.peak_bytes() / MB, image.pixels
            decode_upright(data, policy)
        except RequestError as error:
            answer = error.code
        seconds = time.process_time() - start
        taken = [answer, seconds, _memory("VmHWM") - before, estimate, pixels]
        os.write(here, json.dumps(taken).encode())
        os._exit(0)
    os.close(here)
    with os.fdopen(there) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return Taken(*json.loads(text or '["crashed", 0, 0, 0, 0]'))


def _memory(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


# Honest images


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
    """Return an image's pixels with 16 bits a channel."""
    return np.asarray(image).astype(np.uint16) * 257


def stored_runs(image: Image.Image) -> bytes:
    """Return a bitmap whose run lengths are three pixels as they are, again and again."""
    indices = np.asarray(image)[::-1, : image.width // 3 * 3]
    height, width = indices.shape
    commands = np.zeros((height, width // 3, 6), np.uint8)
    commands[..., 1], commands[..., 2:5] = 3, indices.reshape(height, -1, 3)
    ends = np.zeros((height, 2), np.uint8)
    data = np.concatenate([commands.reshape(height, -1), ends], axis=1).tobytes()
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    colors = (image.getpalette() or []) + [0] * 768
    palette = b"".join(bytes([*colors[at : at + 3][::-1], 0]) for at in range(0, 768, 3))
    start = 14 + len(head) + len(palette)
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, start) + head + palette + data + b"\0\1"


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
    "BMP run lengths": lambda p: stored_runs(p.quantize(64)),
    "BMP RGBA": lambda p: encode(with_alpha(p), "BMP"),
    "TIFF": lambda p: encode(p, "TIFF"),
    "TIFF LZW": lambda p: encode(p, "TIFF", compression="tiff_lzw"),
    "TIFF deflate, predictor": lambda p: tiff(np.asarray(p), compression="deflate", predictor=True),
    "TIFF fax": lambda p: encode(p.convert("1"), "TIFF", compression="group4"),
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
}  # fmt: skip


# Files made to take more than they should


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    """Return an entry of a TIFF's directory."""
    return struct.pack("<HHII", tag, kind, count, value)


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


def run_length_steps() -> bytes:
    """Return a bitmap whose run lengths are nothing but steps to where it is."""
    head = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, 0, 0, 0, 256, 0)
    palette = bytes(1024)
    start = 14 + len(head) + len(palette)
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, start) + head + palette + b"\0\2\0\0" * 7_000_000


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
    "JPEG: as many scans as allowed": ("JPEG progressive", lambda: scans(26)),
    "GIF: 30 MB of blocks": (
        "GIF", lambda: _gif_with(b"!\xfe" + b"\x01x" * 15_000_000 + b"\0"),
    ),
    "BMP: 28 MB of steps": ("BMP palette", run_length_steps),
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


def honest(names: list[str], pixels: int) -> bool:
    """Measure honest images; say if all estimates hold."""
    width = round((pixels * 4 / 3) ** 0.5)
    picture = photo(width, width * 3 // 4)
    rows, fine = [], True
    for name in names:
        taken = take(HONEST[name](picture), POLICY)
        holds = taken.answer == "200" and taken.peak <= 1.05 * taken.estimate + 5
        holds = holds or "turned" in name  # turning is counted by its caller
        fine = fine and holds
        rows.append(
            [name, taken.answer, f"{taken.seconds:.3f}", f"{taken.peak:.0f}",
             f"{taken.estimate:.0f}", "" if holds else "too low"]
        )  # fmt: skip
    print(f"Honest images of {picture.width} x {picture.height} pixels\n")
    print(table(["kind", "answer", "s", "peak MB", "estimate MB", ""], rows))
    return fine


def hand_made(names: list[str]) -> bool:
    """Measure hand-made files beside honest ones; say if none takes more."""
    rows, fine = [], True
    for name in names:
        kind, make = HAND_MADE[name]
        data = make()
        taken = take(data, SERVED)
        side = max(64, round(min(taken.pixels, SERVED.max_image_pixels) ** 0.5))
        other = take(HONEST[kind](photo(side, side)), POLICY)
        holds = (
            taken.answer != "crashed"
            and taken.seconds <= 2 * other.seconds + 0.01 + 0.002 * len(data) / MB
            and taken.peak <= other.peak + 20 + len(data) / MB
        )
        fine = fine and holds
        rows.append(
            [name, f"{len(data) / 1000:.0f}", taken.answer, f"{taken.seconds:.3f}",
             f"{other.seconds:.3f}", f"{taken.peak:.0f}", f"{other.peak:.0f}",
             "" if holds else "more"]
        )  # fmt: skip
    print("\nHand-made files beside honest ones of as many pixels\n")
    print(table(["file", "KB", "answer", "s", "honest s", "MB", "honest MB", ""], rows))
    return fine


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    options = parser.parse_args()
    prepare_decoding()
    chosen = [
        [name for name in names if not options.only or any(word in name for word in options.only)]
        for names in (HONEST, HAND_MADE)
    ]
    results = [honest(chosen[0], round(options.megapixels * 1e6)), hand_made(chosen[1])]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The images to send: from a folder, from a tar, or synthetic."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from service.bench.errors import ImagesError
from service.bench.options import SYNTHETIC
from service.image_files import UNREADABLE, cannot_read, images_in, is_image, no_images

_SYNTHETIC_SIZE = (500, 375)  # pixels, like a typical ImageNet photo


def read_images(source: str, count: int, seed: int) -> list[bytes]:
    """Return at most `count` distinct encoded images, in a fixed order.

    `source` is a folder, searched recursively without hidden files, a tar, "synthetic" or
    "synthetic:WIDTHxHEIGHT". Raises `ImagesError`.
    """
    if match := SYNTHETIC.fullmatch(source):
        width, height = _SYNTHETIC_SIZE if match[1] is None else (int(match[1]), int(match[2]))
        return [synthetic_jpeg(width, height, seed + i) for i in range(count)]
    path = Path(source)
    try:
        found = _in_folder(path) if path.is_dir() else _in_tar(path)
        images = list(islice(_distinct(found), count))
    except UNREADABLE as error:
        raise ImagesError(cannot_read(f"--images {source}", error)) from error
    if not images:
        raise ImagesError(no_images(f"--images {source}"))
    return images


def synthetic_jpeg(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG that takes as long to decode as a photo: soft light, edges, grain."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    pixels = np.full((height, width, 3), random.uniform(60, 190, 3))
    for _ in range(6):
        across, down, phase = random.uniform((-9, -9, 0), (9, 9, 6.3))
        pixels += np.sin(x * across + y * down + phase)[..., None] * random.uniform(-30, 30, 3)
        left, top, radius = random.uniform((0, 0, 0.05), (1, 1, 0.3))
        pixels[(x - left) ** 2 + (y - top) ** 2 < radius**2] += random.uniform(-60, 60, 3)
    pixels += random.normal(scale=6, size=(height, width, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _in_folder(folder: Path) -> Iterator[bytes]:
    for image in images_in(folder):
        yield (folder / image).read_bytes()


def _in_tar(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        for member in archive:  # not sorted, so that a large archive is read no further than needed
            if member.isfile() and is_image(PurePosixPath(member.name)):
                file = archive.extractfile(member)
                assert file is not None  # noqa: S101 - it is a file
                yield file.read()


def _distinct(images: Iterator[bytes]) -> Iterator[bytes]:
    """Yield images without duplicates, which a server might answer from one computation."""
    seen: set[bytes] = set()
    for image in images:
        if image not in seen:
            seen.add(image)
            yield image

"""Folders and tars of small images, one colour per class."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from images import encode
from PIL import Image

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}
"""Colours by class, sorted by folder name."""


def colored(name: str, seed: int, side: int = 40) -> bytes:
    """Return a JPEG of roughly a class's colour, different for each seed."""
    random = np.random.default_rng([*name.encode(), seed])
    pixels = random.normal(COLORS[name], 25, (side, side + seed % 7, 3))
    return encode(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG")


def photo_folder(folder: Path, images: int = 6) -> Path:
    """Return a folder with one folder per class."""
    for name in COLORS:
        (folder / name).mkdir(parents=True)
        for seed in range(images):
            (folder / name / f"{seed}.jpg").write_bytes(colored(name, seed))
    return folder


def tar_of(files: dict[str, bytes], path: Path) -> Path:
    """Write a tar of these files, by their names in it, and return its path."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path

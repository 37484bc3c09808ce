"""Folders and tars of small images, a colour for each class."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from images import encode
from PIL import Image

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}
"""By class, in the order of the folders' names."""


def colored(name: str, seed: int, side: int = 40) -> bytes:
    """A JPEG of about a class's colour, every one another."""
    random = np.random.default_rng([*name.encode(), seed])
    pixels = random.normal(COLORS[name], 25, (side, side + seed % 7, 3))
    return encode(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG")


def photo_folder(folder: Path, images: int = 6) -> Path:
    """A folder with one for each class."""
    for name in COLORS:
        (folder / name).mkdir(parents=True)
        for seed in range(images):
            (folder / name / f"{seed}.jpg").write_bytes(colored(name, seed))
    return folder


def tar_of(files: dict[str, bytes], path: Path) -> Path:
    """A tar of these files, by their names in it."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path

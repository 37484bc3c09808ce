"""Images from a folder per class: split, cropped at random, in a reproducible order.

All randomness depends only on the seed, the epoch and the image, so that a resumed run sees the
same images as an uninterrupted one, with any number of worker processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from model_export.errors import ImagesError
from model_export.pixels import EXACT
from model_export.progress import counted
from service.contract import Preprocessing
from service.cpus import cpu_count
from service.errors import RequestError
from service.image_files import images_in, no_images
from service.preprocess.decode import decode, decode_upright

_PARTS = frozenset({"train", "training", "val", "valid", "validation", "test"})
"""Usual names of a data set's parts, each of which contains the classes' folders."""

_SHOWN = 5  # undecodable images to list; the rest are counted
_RATIO = (3 / 4, 4 / 3)  # of a random crop's sides
_ATTEMPTS = 10
_AT_ONCE = 64  # images decoded between two updates of the progress


@dataclass(frozen=True, slots=True)
class Example:
    """An image file and the index of its class."""

    path: Path
    index: int


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is random in a training image.

    `min_area` is the smallest fraction of the image that a crop keeps; `jitter` the largest change
    of brightness and contrast, as a fraction.
    """

    min_area: float = 0.35
    flip: bool = True
    jitter: float = 0.2


def find_classes(folder: Path) -> tuple[list[str], list[Example]]:
    """Return the classes, sorted by folder name, and all their images.

    Hidden files and folders, in which other programs keep copies, are left out. Raises
    `ImagesError` if the folder is missing, has fewer than two classes or a class without images,
    or has a data set's parts instead of classes.
    """
    if not folder.is_dir():
        raise ImagesError(f"{folder}: no such folder")
    classes = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if classes and _PARTS.issuperset(name.lower() for name in classes):
        raise ImagesError(
            f"{folder}: {', '.join(classes)} are parts of a data set, not classes; pass the one to "
            "train on, and the one to hold out with --validation"
        )
    if len(classes) < 2:
        raise ImagesError(f"{folder}: must have a folder for each class, at least two")
    examples = []
    for index, name in enumerate(classes):
        images = images_in(folder / name)
        if not images:
            raise ImagesError(no_images(folder / name))
        examples += [Example(folder / name / image, index) for image in images]
    return classes, examples


def split(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Hold out that fraction of each class, at least one image; return training and validation.

    Raises `ImagesError` for a class with a single image.
    """
    classes: dict[int, list[Example]] = {}
    for example in examples:
        classes.setdefault(example.index, []).append(example)
    training: list[Example] = []
    validation: list[Example] = []
    for index, members in sorted(classes.items()):
        if len(members) < 2:
            raise ImagesError(f"{members[0].path.parent}: has one image, too few to hold one out")
        held = min(max(1, round(len(members) * fraction)), len(members) - 1)
        chosen = set(np.random.default_rng([seed, index]).permutation(len(members))[:held].tolist())
        for position, example in enumerate(members):
            (validation if position in chosen else training).append(example)
    return training, validation


def check_images(examples: Sequence[Example]) -> None:
    """Decode all images once; raises `ImagesError`, naming those that can't be decoded.

    A bad image would otherwise end a run halfway, and without it the run could not be resumed.
    """

    def problem(example: Example) -> str | None:
        try:
            _open(example.path)
        except ImagesError as error:
            return str(error)
        return None

    problems = []
    with counted() as bar, ThreadPoolExecutor(cpu_count()) as pool:
        task = bar.add_task("reading all images once", total=len(examples))
        for start in range(0, len(examples), _AT_ONCE):
            some = examples[start : start + _AT_ONCE]
            problems += [found for found in pool.map(problem, some) if found]
            bar.update(task, advance=len(some))
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ImagesError("; ".join(problems[:_SHOWN]) + more)


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """Random crops, as uint8 [3, side, side], by (epoch, index, side)."""

    def __init__(
        self,
        examples: Sequence[Example],
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.examples = list(examples)
        self._augmentation, self._seed = augmentation, seed
        self._resampling = getattr(Image.Resampling, preprocessing.interpolation.upper())

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        """Return the image for that epoch and index with that side, and its class."""
        epoch, index, side = key
        example = self.examples[index]
        random = np.random.default_rng([self._seed, epoch, index])
        pixels = self._augmented(_open(example.path), side, random)
        return torch.from_numpy(pixels).permute(2, 0, 1), example.index

    def _augmented(
        self, image: Image.Image, side: int, random: np.random.Generator
    ) -> NDArray[np.uint8]:
        how = self._augmentation
        box = random_box(*image.size, how.min_area, random)
        image = image.resize((side, side), self._resampling, box=box)
        if how.flip and random.random() < 0.5:
            image = ImageOps.mirror(image)
        if how.jitter:
            low, high = 1 - how.jitter, 1 + how.jitter
            image = ImageEnhance.Brightness(image).enhance(random.uniform(low, high))
            image = ImageEnhance.Contrast(image).enhance(random.uniform(low, high))
        return np.array(image)


class ValidationImages(Dataset[tuple[Tensor, int]]):
    """Images as the service will decode, resize and crop them, as uint8 [3, H, W]."""

    def __init__(self, examples: Sequence[Example], preprocessing: Preprocessing) -> None:
        self.examples, self._preprocessing = list(examples), preprocessing

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image and its class."""
        example = self.examples[index]
        with _told_by_name(example.path):
            pixels = decode(example.path.read_bytes(), self._preprocessing, EXACT).pixels
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1), example.index


class EpochOrder(Sampler[tuple[int, int, int]]):
    """All images in a different order each epoch, as keys of `TrainingImages`."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self.epoch, self.side = 0, 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._count)
        return iter([(self.epoch, index, self.side) for index in order.tolist()])


def random_box(
    width: int, height: int, min_area: float, random: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return a random box of an image: `min_area` to all of it, aspect ratio 3/4 to 4/3.

    Szegedy et al., "Going deeper with convolutions", https://arxiv.org/abs/1409.4842. If none fits,
    it is the largest central box with an allowed ratio.
    """
    for _ in range(_ATTEMPTS):
        area = width * height * random.uniform(min_area, 1)
        ratio = math.exp(random.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = random.uniform(0, width - w), random.uniform(0, height - h)
            return left, top, min(left + w, width), min(top + h, height)
    w, h = min(width, height * _RATIO[1]), min(height, width / _RATIO[0])
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _open(path: Path) -> Image.Image:
    with _told_by_name(path):
        return decode_upright(path.read_bytes(), EXACT)


@contextmanager
def _told_by_name(path: Path) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise ImagesError(f"{path}: {error}") from error
    except OSError as error:  # its file name would be lost between processes
        raise ImagesError(f"{path}: {error.strerror or error}") from error

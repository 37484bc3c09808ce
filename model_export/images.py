"""Users' images: encoded ones in a folder or a tar, with their classes."""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from model_export.errors import ImagesError
from model_export.files import missing
from service.contract import Label
from service.image_files import UNREADABLE, cannot_read, files_in, is_image, no_images

# Part of Tiny-ImageNet's validation set: image, id and box, separated by tabs.
_ANNOTATIONS = "val_annotations.txt"
_AFTER_ID = re.compile(r"[_.]")  # n01443537_4121.jpg

T = TypeVar("T")


class ImageSet(Protocol):
    """Encoded images by name, in a fixed order."""

    names: list[str]
    annotations: str | None
    """The text of `val_annotations.txt`, if there is one."""

    def read(self, name: str) -> bytes:
        """Return an image's bytes."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image's name and the index of its class."""

    name: str
    index: int


@contextmanager
def open_images(path: Path) -> Iterator[ImageSet]:
    """Open a folder, searched recursively, or a tar. Raises `ImagesError`, also in `read`."""
    with contextlib.ExitStack() as stack:
        with _readable(path):
            if path.is_dir():
                found: ImageSet = _Folder(path)
            elif reason := missing(path):
                raise ImagesError(reason)
            elif not tarfile.is_tarfile(path):
                raise ImagesError(f"{path}: is neither a folder nor a complete tar file")
            else:
                found = _Tar(stack.enter_context(tarfile.open(path)), path)
        if not found.names:
            raise ImagesError(no_images(path))
        yield found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise ImagesError(cannot_read(path, error)) from error


def spread(items: Sequence[T], most: int | None) -> list[T]:
    """Choose at most `most`, evenly spaced, since images are sorted, for example by class."""
    count = len(items) if most is None else min(len(items), most)
    return [items[index * len(items) // count] for index in range(count)]


def labelled(images: ImageSet, labels: Sequence[Label], where: Path) -> list[Labelled]:
    """Return each image with its class: by annotations, by its folders, or by its name.

    One of its folders, the nearest first, is named by a class's id or label, or its file name
    begins with one, the longest that fits. Raises `ImagesError` if an image's class is unknown.
    """
    # Two of ImageNet's classes are called crane, so that name identifies neither.
    counts = Counter(label.label for label in labels)
    index = {label.label: i for i, label in enumerate(labels) if counts[label.label] == 1}
    index |= {label.id: i for i, label in enumerate(labels)}
    if images.annotations is not None:
        return _annotated(images, images.annotations, index, where)
    found, unknown = [], []
    for name in images.names:
        label = next((part for part in _candidates(PurePosixPath(name)) if part in index), None)
        if label is None:
            unknown.append(name)
        else:
            found.append(Labelled(name, index[label]))
    if unknown:
        raise ImagesError(
            f"{where}: {len(unknown)} of {len(images.names)} images are of no class of the model "
            f"({unknown[0]}, ...): neither their folder's name nor the beginning of their own is "
            "the id or label of a class"
        )
    return found


def _candidates(path: PurePosixPath) -> Iterator[str]:
    """Yield possible classes: folders, nearest first, then the name's prefixes, longest first."""
    yield from reversed(path.parts[:-1])
    for end in reversed([match.start() for match in _AFTER_ID.finditer(path.name)]):
        yield path.name[:end]


def _annotated(
    images: ImageSet, text: str, index: Mapping[str, int], where: Path
) -> list[Labelled]:
    by_name = {PurePosixPath(name).name: name for name in images.names}
    found = []
    for line, row in enumerate(text.splitlines(), start=1):
        if not row:
            continue
        name, _, rest = row.partition("\t")
        wanted = rest.partition("\t")[0]
        if name not in by_name or wanted not in index:
            what = f"no image {name}" if name not in by_name else f"no class {wanted!r}"
            raise ImagesError(f"{where}: {_ANNOTATIONS}, line {line}: there is {what}")
        found.append(Labelled(by_name[name], index[wanted]))
    if not found:
        raise ImagesError(f"{where}: {_ANNOTATIONS} names no image")
    return found


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = files_in(folder)
        self.names = [file.as_posix() for file in files if is_image(file)]
        notes = [file for file in files if file.name == _ANNOTATIONS]
        self.annotations = (folder / notes[0]).read_text("utf-8") if notes else None

    def read(self, name: str) -> bytes:
        with _readable(self._folder / name):
            return (self._folder / name).read_bytes()


class _Tar:
    def __init__(self, archive: tarfile.TarFile, path: Path) -> None:
        self._archive, self._path = archive, path
        self._members = {member.name: member for member in archive if member.isfile()}
        self.names = sorted(name for name in self._members if is_image(PurePosixPath(name)))
        notes = [name for name in self._members if PurePosixPath(name).name == _ANNOTATIONS]
        self.annotations = self.read(notes[0]).decode() if notes else None

    def read(self, name: str) -> bytes:
        with _readable(self._path):
            file = self._archive.extractfile(self._members[name])
            assert file is not None  # noqa: S101 - only files are members
            return file.read()

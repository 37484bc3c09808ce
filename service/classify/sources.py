"""The images to classify, one after another: files, folders, patterns, tars, standard input."""

from __future__ import annotations

import glob
import io
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Self, cast

from service.classify.errors import SourceError
from service.errors import UnreadableImageError
from service.image_files import SUFFIXES, UNREADABLE, cannot_read, is_image, walk
from service.streams import Content

STDIN = "-"

MOST_BYTES = 256 * 2**20
"""Of one image."""

_TAR_BLOCK = 512  # bytes; enough to tell a tar, compressed or not


@dataclass(frozen=True, slots=True)
class Item:
    """An image, or what should be one: its name, and its bytes or why there are none.

    Read it before the next item is taken: a tar has one position.
    """

    name: str
    read: Callable[[], Content]


def items_of(paths: Sequence[str], stdin: BinaryIO | None = None) -> Iterator[Item]:
    """Yield the images of all paths, in order; a folder's and a pattern's are sorted by name.

    What can't be read is an item too. Raises `SourceError` for a path that is not there.
    """
    for path in paths:
        if path == STDIN:
            yield from _standard_input(stdin or sys.stdin.buffer)
        elif Path(path).is_dir():
            yield from _folder(Path(path))
        elif Path(path).exists():
            yield from _file(Path(path))
        else:
            found = _matches(path)
            if not found:
                raise SourceError(f"{path}: there is no such file or folder, and nothing matches")
            for match in found:
                yield from _folder(match) if match.is_dir() else _file(match)


def check_paths(paths: Sequence[str]) -> None:
    """Raise `SourceError` for a path that is not there, or if standard input is named twice."""
    for path in paths:
        if path != STDIN and not Path(path).exists() and not _matches(path):
            raise SourceError(f"{path}: there is no such file or folder, and nothing matches")
    if paths.count(STDIN) > 1:
        raise SourceError("standard input (-) can be read only once")


def _matches(pattern: str) -> list[Path]:
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207


def _folder(folder: Path) -> Iterator[Item]:
    unlisted: list[Item] = []

    def note(error: OSError) -> None:
        unlisted.append(_failed(str(error.filename), error))

    for path in walk(folder, note):
        yield from unlisted
        unlisted.clear()
        if is_image(path):
            yield Item(str(folder / path), partial(_read_file, folder / path))
    yield from unlisted


def _file(path: Path) -> Iterator[Item]:
    if path.suffix.lower() not in SUFFIXES and path.is_file() and _is_tar(path):
        try:
            with tarfile.open(path, tarinfo=_Header) as archive:
                yield from _members(archive, str(path))
        except UNREADABLE as error:
            yield _failed(str(path), error)
    else:
        yield Item(str(path), partial(_read_file, path))


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except UNREADABLE:
        return False  # reading it as an image says why


class _Header(tarfile.TarInfo):
    """A header whose damage is an error; tarfile would take it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Read the next header. Raises `tarfile.ReadError`."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise  # the mark at the end
            raise tarfile.ReadError(f"damaged or cut off ({error})") from error


def _members(archive: tarfile.TarFile, name: str) -> Iterator[Item]:
    while True:
        try:
            member = archive.next()
        except UNREADABLE as error:  # what follows can't be found
            yield _failed(name, error)
            return
        if member is None:
            return
        # It would keep those of millions of images.
        archive.members.clear()  # type: ignore[attr-defined]
        if member.isfile() and is_image(PurePosixPath(member.name)):
            shown = f"{name}/{member.name}"
            yield Item(shown, partial(_read_member, archive, member, shown))


def _standard_input(stdin: BinaryIO) -> Iterator[Item]:
    """Yield the image that standard input has, or those of the tar that it has."""
    try:
        beginning = stdin.read(_TAR_BLOCK)
        stream = cast("IO[bytes]", _Continued(beginning, stdin))
        if not _begins_a_tar(beginning):
            yield Item(STDIN, partial(_read_stream, stream, STDIN))
            return
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as archive:
            yield from _members(archive, STDIN)
    except UNREADABLE as error:
        yield _failed(STDIN, error)


def _begins_a_tar(beginning: bytes) -> bool:
    compressed = beginning.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))
    return compressed or beginning[257:262] == b"ustar"


class _Continued:
    """A stream of which the beginning was read before."""

    def __init__(self, beginning: bytes, rest: BinaryIO) -> None:
        self._beginning, self._rest = io.BytesIO(beginning), rest

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        begun = self._beginning.read(size)
        return begun + self._rest.read(size - len(begun))


def _read_file(path: Path) -> Content:
    try:
        with path.open("rb") as file:
            return _read_stream(file, str(path))
    except OSError as error:
        return UnreadableImageError(cannot_read(path, error))


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Content:
    try:
        file = archive.extractfile(member)
        assert file is not None  # noqa: S101 - it is a file
        content = _read_stream(file, name)
    except UNREADABLE as error:
        return UnreadableImageError(cannot_read(name, error))
    if isinstance(content, bytes) and len(content) < member.size:
        return UnreadableImageError(f"{name}: can't be read: the tar ends within it")
    return content


def _read_stream(stream: IO[bytes], name: str) -> Content:
    try:
        content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        return UnreadableImageError(cannot_read(name, error))
    if len(content) > MOST_BYTES:
        return UnreadableImageError(f"{name}: is larger than {MOST_BYTES} bytes")
    return content


def _failed(name: str, error: Exception) -> Item:
    message = cannot_read(name, error)
    return Item(name, lambda: UnreadableImageError(message))

"""Model files on disk: which ones there are, and the name and version each is served as."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from service.errors import ModelSelectionError, ResnetServeError
from service.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OF_THE_FILE_SYSTEM = "lost+found"  # at the root of a volume, and readable by root alone
_SUFFIX = ".onnx"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True, order=True)
class ModelFile:
    """A model file, with the name and version that it is served as."""

    name: str
    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A model that can't be served although others can; clients may see `reason`."""

    name: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file that looks like a model but isn't served."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found in a model folder."""

    files: list[ModelFile]
    passed_over: list[PassedOver]


def is_model_name(text: str) -> bool:
    """Return whether `text` is a valid model name."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Return whether `text` is a valid version, the name of a file in its model's folder."""
    return _VERSION.fullmatch(text) is not None


def _listed(folder: Path) -> list[Path]:
    """List a folder without hidden entries, made by other programs (`..data`, `._x.onnx`)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def builtin_file() -> ModelFile:
    """Return the model file that comes with the package."""
    path = Path(str(resources.files("service") / "builtin" / "slim-resnet50.onnx"))
    return ModelFile(path.stem, 1, path)


def discover(models: Path) -> Discovery:
    """Find the model files of a folder that should have some, or take a single file.

    Raises `ModelSelectionError` if `models` can't be read or is a folder without models.
    """
    found = scan(models)
    if not found.files:
        if passed_over := found.passed_over:
            more = f" (and {len(passed_over) - 1} more like it)" if len(passed_over) > 1 else ""
            raise ModelSelectionError(f"{passed_over[0]}{more}")
        raise ModelSelectionError(
            f"{models}: has no NAME.onnx or NAME/VERSION.onnx (--models); make one with "
            "`resnet-export export`, or omit --models to serve the built-in model"
        )
    return found


def scan(models: Path) -> Discovery:
    """Find `NAME.onnx` (version 1) and `NAME/VERSION.onnx` in a folder, or take a single file.

    Raises `ModelSelectionError` if `models` can't be read.
    """
    try:
        if models.is_file():
            return Discovery([_named_alone(models)], [])
        entries = _listed(models)
    except OSError as error:
        raise ModelSelectionError(
            f"{models}: can't be read (--models): {error.strerror}"
        ) from error
    files: list[ModelFile] = []
    passed_over: list[PassedOver] = []
    for entry in entries:
        for path, of_folder in _candidates(entry, passed_over):
            reason = _fault(path, of_folder)
            if reason is not None:
                passed_over.append(PassedOver(path, reason))
            elif of_folder:
                files.append(ModelFile(path.parent.name, int(path.stem), path))
            else:
                files.append(ModelFile(path.stem, 1, path))
    return Discovery(sorted(files), passed_over)


def available(settings: Settings) -> Discovery:
    """Find what could be served now: the files of the model folder, and the built-in one if asked.

    Of two files with the same name and version, only the first is taken. Raises
    `ModelSelectionError` if the folder can't be read.
    """
    found = scan(settings.models) if settings.models else Discovery([], [])
    return joined(found, with_builtin=settings.builtin or not settings.models)


def joined(found: Discovery, *, with_builtin: bool) -> Discovery:
    """Add the built-in model, if wanted, and pass over what has another's name and version."""
    files: dict[tuple[str, int], ModelFile] = {}
    passed_over = list(found.passed_over)
    for file in [*found.files, *([builtin_file()] if with_builtin else [])]:
        other = files.setdefault((file.name, file.version), file)
        if other is not file:
            reason = f"{other.path} is {file.name} version {file.version}, too"
            passed_over.append(PassedOver(file.path, reason))
    return Discovery(list(files.values()), passed_over)


def reason_for_clients(error: ResnetServeError, path: Path) -> str:
    """Return the message of an error about a file without the path to the file."""
    reason = str(error).removeprefix(f"{path}: ")
    return reason.replace(str(path), path.name).replace(f"{path.parent}/", "")


def _candidates(entry: Path, passed_over: list[PassedOver]) -> Iterator[tuple[Path, bool]]:
    """Yield what looks like a model file, and whether it is in its model's own folder."""
    try:
        if not entry.is_dir():
            if _looks_like_a_model(entry):
                yield entry, False
        elif entry.name != _OF_THE_FILE_SYSTEM:
            for path in _listed(entry):
                if _looks_like_a_model(path):
                    yield path, True
    except OSError as error:
        passed_over.append(PassedOver(entry, f"can't be read: {error.strerror}"))


def _looks_like_a_model(path: Path) -> bool:
    there = path.is_file() or (path.is_symlink() and not path.exists())
    return there and path.suffix.lower() == _SUFFIX


def _fault(path: Path, of_folder: bool) -> str | None:
    """Return why a file that looks like a model can't be served, or None if it can."""
    if not path.is_file():
        return "is a broken symbolic link"
    if path.suffix != _SUFFIX:
        return f"is not served, since its name does not end in lower-case {_SUFFIX}"
    if of_folder and not is_version(path.stem):
        return (
            "a file in a model's own folder must be named by its version, as in "
            f"{path.parent.name}/1.onnx"
        )
    if not is_model_name(path.parent.name if of_folder else path.stem):
        return "a model name must be 1 to 100 letters, digits and `._-`, not starting with `._-`"
    return None


def _named_alone(path: Path) -> ModelFile:
    """Name a single file as if its folder had been given: `color/3.onnx` is a version of color."""
    folder = path.absolute().parent.name
    if is_version(path.stem) and is_model_name(folder):
        return ModelFile(folder, int(path.stem), path)
    if not is_model_name(path.stem):
        raise ModelSelectionError(
            f"{path}: a model name must be 1 to 100 letters, digits and `._-`, not starting with "
            "`._-` (--models)"
        )
    return ModelFile(path.stem, 1, path)

"""Model files on disk: which there are, and what each is served as."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from service.errors import ModelSelectionError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OF_THE_FILE_SYSTEM = "lost+found"  # at the root of a volume, and readable by root alone
_SUFFIX = ".onnx"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True, order=True)
class ModelFile:
    """A model file and what it is served as."""

    name: str
    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A model that can't be served, beside others that can; `reason` may be shown to clients."""

    name: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file that looks like a model and can't be one."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a model folder holds."""

    files: list[ModelFile]
    passed_over: list[PassedOver]


def is_model_name(text: str) -> bool:
    """Return whether a model can be called so."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Return whether a model file in its model's folder can be called so."""
    return _VERSION.fullmatch(text) is not None


def _listed(folder: Path) -> list[Path]:
    """List a folder without hidden entries, which are other programs' (`..data`, `._x.onnx`)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def builtin_file() -> ModelFile:
    """Return the model file that comes with the package."""
    path = Path(str(resources.files("service") / "builtin" / "slim-resnet50.onnx"))
    return ModelFile(path.stem, 1, path)


def discover(models: Path) -> Discovery:
    """Find `NAME.onnx` (version 1) and `NAME/VERSION.onnx` in a model folder, or take a file alone.

    Raises `ModelSelectionError` for what can't be read, and for a folder that holds no model.
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
    if not files:
        if passed_over:
            more = f" (and {len(passed_over) - 1} more like it)" if len(passed_over) > 1 else ""
            raise ModelSelectionError(f"{passed_over[0]}{more}")
        raise ModelSelectionError(
            f"{models}: holds no NAME.onnx and no NAME/VERSION.onnx (--models); make one with "
            "`resnet-export export`, or leave --models away to serve the built-in model"
        )
    return Discovery(sorted(files), passed_over)


def _candidates(entry: Path, passed_over: list[PassedOver]) -> Iterator[tuple[Path, bool]]:
    """Return what looks like a model file, and whether it lies in a folder of its model's own."""
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
    """Say why a file that looks like a model can't be served, if so."""
    if not path.is_file():
        return "is a link that leads nowhere"
    if path.suffix != _SUFFIX:
        return f"is not served, since its name does not end in {_SUFFIX} in small letters"
    if of_folder and not is_version(path.stem):
        return (
            "a file in a model's own folder is named by its version, as in "
            f"{path.parent.name}/1.onnx"
        )
    if not is_model_name(path.parent.name if of_folder else path.stem):
        return "a model's name is letters, digits and `._-`, 100 at most"
    return None


def _named_alone(path: Path) -> ModelFile:
    """Name a file that was given by itself as its folder would be: `color/3.onnx` is a version."""
    folder = path.absolute().parent.name
    if is_version(path.stem) and is_model_name(folder):
        return ModelFile(folder, int(path.stem), path)
    if not is_model_name(path.stem):
        raise ModelSelectionError(
            f"{path}: a model's name is letters, digits and `._-`, 100 at most (--models)"
        )
    return ModelFile(path.stem, 1, path)

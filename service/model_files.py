"""Model files on disk: which there are, and what each is served as."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from service.errors import ModelSelectionError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OF_THE_FILE_SYSTEM = "lost+found"  # at the root of a volume, and readable by root alone
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True, order=True)
class ModelFile:
    """A model file and what it is served as."""

    name: str
    version: int
    path: Path


def is_model_name(text: str) -> bool:
    """Whether a model can be called so."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether a model file in its model's folder can be called so."""
    return _VERSION.fullmatch(text) is not None


def _listed(folder: Path) -> list[Path]:
    """List a folder without hidden entries, which are other programs' (`..data`, `._x.onnx`)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def builtin_file() -> ModelFile:
    """Give the model file that comes with the package."""
    path = Path(str(resources.files("service") / "models" / "slim-resnet50.onnx"))
    return ModelFile(path.stem, 1, path)


def discover(folder: Path) -> list[ModelFile]:
    """Find `NAME.onnx` (version 1) and `NAME/VERSION.onnx` in a model folder.

    Raises `ModelSelectionError` for a folder that can't be read or holds none, and for names that
    could not be asked for.
    """
    try:
        entries = _listed(folder)
        paths = [path for path in entries if path.suffix == ".onnx" and path.is_file()]
        versioned = [
            path
            for entry in entries
            if entry.is_dir() and entry.name != _OF_THE_FILE_SYSTEM
            for path in _listed(entry)
            if path.suffix == ".onnx" and path.is_file()
        ]
    except OSError as error:
        raise ModelSelectionError(
            f"{error.filename}: can't be read (--models): {error.strerror}"
        ) from error
    files = [ModelFile(path.stem, 1, path) for path in paths]
    for path in versioned:
        if not is_version(path.stem):
            raise ModelSelectionError(
                f"{path}: a file in a model's own folder is named by its version, as in "
                f"{path.parent.name}/1.onnx"
            )
        files.append(ModelFile(path.parent.name, int(path.stem), path))
    if not files:
        raise ModelSelectionError(
            f"{folder}: holds no NAME.onnx and no NAME/VERSION.onnx (--models); make one with "
            "`resnet-export export`, or leave --models away to serve the built-in model"
        )
    for file in files:
        if not is_model_name(file.name):
            raise ModelSelectionError(
                f"{file.path}: a model's name is letters, digits and `._-`, 100 at most"
            )
    return sorted(files)

"""What tells whether a model's files have changed, and how much memory they would take."""

from __future__ import annotations

from pathlib import Path

from service.contract import ModelContract
from service.models.files import ModelFile, is_version

_OF_FLOAT32, _OF_LESS = 2.6, 5.2
_ENGINE_BYTES = 4 * 2**20

Stamp = tuple[tuple[int, ...] | None, ...]
"""What tells whether a file has been written or replaced; see `stamp_of`."""


def settings_path_of(file: ModelFile) -> Path:
    """Return where a model's own settings are, if it has any: `NAME.toml` in the model folder."""
    parent = file.path.parent
    has_folder = parent.name == file.name and is_version(file.path.stem)
    return (parent.parent if has_folder else parent) / f"{file.name}.toml"


def parts_of(path: Path) -> tuple[Path, Path]:
    """Return a model file and the file beside it that `torch.onnx` puts large weights into."""
    return path, path.with_name(f"{path.name}.data")


def stamp_of(file: ModelFile) -> Stamp:
    """Return device, inode, size and time of change of each part of a model, and of its settings.

    Links are followed, so a link that points elsewhere changes it too. A part that can't be looked
    at is None.
    """
    return tuple(_stamp(part) for part in (*parts_of(file.path), settings_path_of(file)))


def memory_of(file: ModelFile, contract: ModelContract | None = None) -> int:
    """Estimate the bytes that a model takes while it is served, from the size of its file.

    Measured of one engine on a CPU, open and run in batches of up to 8 (ResNet-50, the built-in
    model and two small networks): 2.5 times the file if it stores float32, and 5 times if it stores
    less and computes in float32. A file that has not been opened may store either.
    """
    stamps = [_stamp(part) for part in parts_of(file.path)]
    size = sum(stamp[2] for stamp in stamps if stamp is not None)
    is_float32 = contract is not None and contract.storage == contract.precision == "fp32"
    return int(size * (_OF_FLOAT32 if is_float32 else _OF_LESS)) + _ENGINE_BYTES


def is_there(stamp: Stamp) -> bool:
    """Return whether the model file itself could be looked at."""
    return bool(stamp) and stamp[0] is not None


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

"""Loads files written by `torch.save` without running any code in them.

PyTorch's weights-only loader calls only functions that rebuild tensors. Anything else that a file
names (NumPy numbers, paths, a trainer's options, whole networks) is replaced by a `Stranger`, which
only has its name, so that the parameters beside it can still be loaded.
"""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from model_export.contents import shown
from model_export.damage import told_as_damage
from model_export.errors import WeightsError

_ZIP = b"PK\x03\x04"  # by which PyTorch distinguishes zip files from its old format
_PIECE = 2**20
_LEGACY_PICKLES = 5  # mark, version, machine, content, storages' names
_READ_PROTOCOL = 2  # the one that PyTorch writes; its safe loader supports little of later ones
_COMMON = ("builtins.", "_codecs.", "copyreg.")  # in most pickles
_NUMPY = {
    "scalar": "a NumPy number",
    "_reconstruct": "a NumPy array",
    "_frombuffer": "a NumPy array",
}
_NOT_RUN = "objects are not unpickled because that could run code"
_ADVICE = "save the network's state_dict() alone"


class Stranger:
    """Stands for an object, or a function's result; nothing is called.

    It can't be filled like a dictionary or a list, so a file that needs that is refused.
    """

    name: ClassVar[str]

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def load_pickle(path: Path) -> Any:
    """Load a file from `torch.save`, with a `Stranger` for each object that is not plain data.

    Raises `WeightsError` if it is damaged, or has an unsupported pickle protocol or objects.
    """
    with told_as_damage(path), path.open("rb") as file:
        protocol, names = _scan(file)
        file.seek(0)  # a file, since for a path PyTorch would go by the suffix
        allowed: list[Any] = [(_stand_in(name), name) for name in sorted(names)]
        try:
            with (
                torch.serialization.safe_globals(allowed),
                warnings.catch_warnings(action="ignore"),  # about the protocol
            ):
                return torch.load(file, map_location="cpu", weights_only=True)
        except (EOFError, OSError, RuntimeError, MemoryError):
            raise
        except Exception as error:  # refused content, or errors due to damaged instructions
            raise WeightsError(f"{path}: {_reason(protocol, names)}") from error


def _stand_in(name: str) -> Any:
    if name == "collections.defaultdict":
        return _dictionary
    return type("Stranger", (Stranger,), {"name": shown(name)})


def _dictionary(*_default: object) -> OrderedDict[Any, Any]:
    """Replace a defaultdict, which PyTorch's loader would not fill."""
    return OrderedDict()


def what_is(value: object) -> str:
    """Describe a value that is not a tensor of floats, in a few words."""
    if isinstance(value, Tensor):
        return odd_tensor(value) or "a tensor"
    if isinstance(value, Stranger):
        last = value.name.rpartition(".")[2]
        if value.name.startswith("numpy.") and last in _NUMPY:
            return _NUMPY[last]
        return f"a path ({last})" if last.endswith("Path") else f"an object of {value.name}"
    if value is None or isinstance(value, bool):
        return str(value)
    return f"a number ({value})" if isinstance(value, (int, float)) else _article(value)


def odd_tensor(tensor: Tensor) -> str:
    """Describe a tensor that can't be a parameter; empty for a plain tensor of floats."""
    kind = _dtype(tensor)
    unscaled = not tensor.is_floating_point() or tensor.dtype.itemsize == 1
    found = (
        (tensor.is_quantized, f"a quantised tensor ({kind})"),
        (tensor.is_nested, "a nested tensor"),
        (tensor.layout != torch.strided, "a sparse tensor"),
        (tensor.is_meta, "a meta tensor, which has no values"),
        (tensor.is_complex(), f"a complex tensor ({kind})"),
        (tensor.dtype == torch.bool, "a boolean tensor"),
        (unscaled, f"a tensor of {kind} with an unknown scale"),
    )
    return next((what for holds, what in found if holds), "")


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor stores a value for each element."""
    strided = tensor.layout == torch.strided and not tensor.is_nested
    return strided and not tensor.is_quantized and not tensor.is_meta


def is_array(value: object) -> bool:
    """Return whether a value is a tensor with dimensions, or stands for a NumPy array."""
    if isinstance(value, Stranger):
        return what_is(value) == "a NumPy array"
    return isinstance(value, Tensor) and (value.is_nested or value.ndim > 0)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _article(value: object) -> str:
    name = {"str": "text", "dict": "dictionary"}.get(type(value).__name__, type(value).__name__)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _scan(file: IO[bytes]) -> tuple[int, set[str]]:
    """Return a file's pickle protocol and the names that it would import or call.

    All checksums of a zip file are verified, which PyTorch does not do.
    """
    is_zip = file.read(len(_ZIP)) == _ZIP
    file.seek(0)
    if not is_zip:
        return _scanned(file, _LEGACY_PICKLES)
    found: tuple[int, set[str]] = 0, set()
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.CRC == 0:  # PyTorch writes 0 if it is told not to compute checksums
                del entry.CRC
            with archive.open(entry) as content:
                if entry.filename.rpartition("/")[2] == "data.pkl":
                    found = _scanned(content, 1)
                while content.read(_PIECE):
                    pass
    return found


def _scanned(file: IO[bytes], pickles: int) -> tuple[int, set[str]]:
    protocol, names = 0, set()
    # The loader will find any damage in the same place.
    with contextlib.suppress(ValueError, IndexError, OverflowError, MemoryError):
        for _ in range(pickles):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "PROTO":
                    protocol = max(protocol, int(argument or 0))
                elif operation.name == "GLOBAL":
                    names.add(_today(*str(argument).split(" ", 1)))
    return protocol, names


def _today(module: str, name: str) -> str:
    """Return a name's Python 3 form: PyTorch writes Python 2's names."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _reason(protocol: int, names: set[str]) -> str:
    if protocol != _READ_PROTOCOL and protocol <= pickle.HIGHEST_PROTOCOL:
        return (
            f"has pickle protocol {protocol or '0 or 1'}, which can't be read safely; save it "
            f"again with PyTorch's default protocol, {_READ_PROTOCOL}"
        )
    foreign = sorted(
        (name for name in names if not name.startswith(("torch.", "collections."))),
        key=lambda name: (name.startswith(_COMMON), name),
    )
    if not foreign:
        return f"is damaged, or holds more than plain tensors ({_NOT_RUN}); {_ADVICE}"
    more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
    return (
        f"holds objects of {', '.join(map(shown, foreign[:3]))}{more} where they can't be ignored "
        f"({_NOT_RUN}), or is damaged; {_ADVICE}"
    )

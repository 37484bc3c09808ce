"""Files of trained parameters: what is in them, whatever the trainer wrapped around it.

No code in a file is ever run.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model_export.errors import WeightsError
from model_export.files import sha256_of

# Where trainers put the parameters, averaged ones first: those are what they evaluate.
_ENTRIES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "state_dict",
            "model_state_dict", "model", "network", "net")  # fmt: skip

# What wrappers put before each name: DataParallel and AveragedModel, torch.compile, Lightning.
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")

TRAINED = "resnet_export"
"""The entry in which `resnet-export train` says what its network is: labels, preprocessing."""

_AVERAGED = "n_averaged"  # AveragedModel's counter beside the parameters
_SHOWN = 8  # keys listed of a file that has none of the known entries


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Named parameters as read from a file, and the file's SHA-256.

    What wrappers put before all names is not in `state`, but is in `stored`. `entry` names the part
    of the file that they are in, if not all of it. `about` is what `resnet-export train` says of
    its network (see `TRAINED`), or empty.
    """

    path: Path
    sha256: str
    state: Mapping[str, Tensor]
    stored: Mapping[str, Tensor]
    entry: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, entry: str | None = None) -> Checkpoint:
    """Read a `.safetensors`, `.pth` or `.pt` file of parameters.

    The parameters may be the file's only content or one of its entries: the named one, or else the
    first of those that trainers use. Prefixes that all names have from a wrapper are dropped.

    Raises `WeightsError`: no such file, of another kind, damaged, or without named tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    elif path.suffix in {".pth", ".pt"}:
        content = _read_pickle(path)
    else:
        raise WeightsError(f"{path}: is none of .safetensors, .pth and .pt")
    state, found = _find(content, path, entry)
    about = content.get(TRAINED) if isinstance(content, dict) else None
    return Checkpoint(
        path,
        sha256_of(path),
        _without_prefixes(state),
        state,
        found,
        about if isinstance(about, dict) else {},
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: is no whole safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        # Many trainers keep their command line beside the parameters. Files of another pickle
        # protocol are warned of, and then mostly refused.
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # PyTorch's errors share no other root
        raise WeightsError(
            f"{path}: can't be loaded: the file is damaged, or it holds Python objects, which are "
            "not unpickled since that could run code; save the network's state_dict() alone"
        ) from error


def _find(content: Any, path: Path, entry: str | None) -> tuple[Mapping[str, Tensor], str]:
    """Find the named tensors in a file's content, and the entry that they are."""
    if entry is None and _is_state(content):
        return content, ""
    entries: dict[str, Any] = content if isinstance(content, dict) else {}
    for name in _ENTRIES if entry is None else (entry,):
        part: Any = entries.get(name)
        if _is_state(part):
            return part, name
        if isinstance(part, dict) and _is_state(part.get("state_dict")):
            return part["state_dict"], f"{name}.state_dict"
    wanted = f"no named tensors as its entry {entry}" if entry else "no named tensors"
    raise WeightsError(
        f"{path}: has {wanted}, but {_keys(content)}; save the network's state_dict() alone"
    )


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
        )
    )


def _keys(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    names = [str(key) for key in content]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"the keys {', '.join(names[:_SHOWN])}{more}" if names else "nothing"


def _without_prefixes(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    state = {name: tensor for name, tensor in state.items() if name != _AVERAGED}
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in state)), None):
        if not state:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state

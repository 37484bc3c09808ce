"""Files of trained parameters, and the network that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model_export.architectures import ARCHITECTURES, Stem
from model_export.architectures.resnet import ResNet
from model_export.errors import WeightsError
from model_export.files import sha256_of

_SHOWN = 4  # names listed of each kind of mismatch


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Named parameters as read from a file, and the file's SHA-256."""

    path: Path
    sha256: str
    state: Mapping[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.safetensors`, `.pth` or `.pt` file of parameters; no code in it is ever run.

    Raises `WeightsError`: no such file, of another kind, damaged, or with other things than
    tensors in it.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in {".pth", ".pt"}:
        state = _read_pickle(path)
    else:
        raise WeightsError(f"{path}: is none of .safetensors, .pth and .pt")
    return Checkpoint(path, sha256_of(path), state)


def build_network(architecture: str, checkpoint: Checkpoint, stem: Stem) -> ResNet:
    """Build the network of that name with the checkpoint's parameters, ready for inference.

    The base width and the number of classes are those of the checkpoint. Raises `WeightsError`
    when its names or shapes are not the network's.
    """
    spec, state = ARCHITECTURES[architecture], dict(checkpoint.state)
    network = ResNet(
        spec.block,
        spec.depths,
        classes=_length(state, "fc.weight", otherwise=1000),
        base_width=_length(state, "conv1.weight", otherwise=64),
        stem=stem,
    )
    expected = network.state_dict()
    for name in expected:
        # Counts training steps; old files lack it and inference has no use for it.
        if name.endswith(".num_batches_tracked"):
            state[name] = expected[name]
    problems = _mismatches(state, expected)
    if problems:
        raise WeightsError(f"{checkpoint.path}: does not fit {architecture}: {problems}")
    network.load_state_dict(state, strict=True)
    return network.eval()


def stem_of(checkpoint: Checkpoint) -> Stem:
    """Tell the stem from the first convolution's size."""
    weight = checkpoint.state.get("conv1.weight")
    return "small" if weight is not None and weight.shape[2:] == (3, 3) else "imagenet"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: is no whole safetensors file: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's errors share no other root
        raise WeightsError(
            f"{path}: can't be loaded: the file is damaged, or it holds Python objects, which are "
            "not unpickled since that could run code; save the network's state_dict() alone"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        found = (
            f"the keys {_listed(list(map(str, state)))}" if isinstance(state, dict) else "no dict"
        )
        raise WeightsError(
            f"{path}: must hold named tensors and nothing else, but has {found}; "
            "save the network's state_dict() alone"
        )
    return state


def _length(state: Mapping[str, Tensor], name: str, *, otherwise: int) -> int:
    """First dimension of a parameter; a missing one is reported by `_mismatches`."""
    return state[name].shape[0] if name in state and state[name].ndim > 0 else otherwise


def _mismatches(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Say in one line what differs, with a few names of each kind."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {_shape(state[name])} for {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    parts = [
        f"{len(names)} {what} ({_listed(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"

"""Loads parameters into their network, or explains why they don't fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from model_export.architectures import ARCHITECTURES, Bot, Residual, Stem
from model_export.architectures.build import build
from model_export.checkpoint import Checkpoint
from model_export.errors import WeightsError
from model_export.unpickling import is_dense, odd_tensor, what_is
from model_export.wrappers import head_of, unwrapped

_ROWS = 12  # in the table of names that don't fit; the rest are counted

# DenseNets from before 2018, including torchvision's official files, have `norm.1` for `norm1`.
_OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def of_architecture(architecture: str, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with its parameters named as in the network (`wrappers.unwrapped`).

    Raises `WeightsError`.
    """
    spec = ARCHITECTURES[architecture]
    stems: tuple[Stem | None, ...] = ("imagenet", "deep") if isinstance(spec, Residual) else (None,)
    with torch.device("meta"):
        networks = [list(build(architecture, stem=stem).state_dict()) for stem in stems]

    def features(state: Mapping[str, Any]) -> int | None:
        width = _width(architecture, state)
        with torch.device("meta"):
            return head_features(build(architecture, width=width).state_dict())

    state = {_OLD_DENSE.sub(r"\1\2", name): value for name, value in checkpoint.state.items()}
    return unwrapped(replace(checkpoint, state=state), networks, features)


def head_features(state: Mapping[str, Any]) -> int | None:
    """Return the input features D of a network's last layer; None if it is not linear."""
    weight = state.get(f"{head_of(state)}.weight")
    return weight.shape[1] if isinstance(weight, Tensor) and weight.ndim == 2 else None


def build_network(architecture: str, checkpoint: Checkpoint, stem: Stem | None = None) -> nn.Module:
    """Build the network with the checkpoint's parameters, ready for inference.

    The width, the number of classes, the side of images if it is fixed and, unless given, the stem
    are the checkpoint's. Raises `WeightsError` if its names (see `of_architecture`) or shapes are
    others than the network's.
    """
    state = checkpoint.state
    classes = _length(state, ARCHITECTURES[architecture].classes_parameter)
    network = build(
        architecture,
        classes=classes or 1000,
        width=width_of(architecture, checkpoint),
        stem=stem or stem_of(architecture, checkpoint),
        side=side_of(architecture, checkpoint),
    )
    failed = f"{checkpoint.path}: does not fit {architecture}"
    load(network, state, failed, classes_known=classes is not None)
    return network


def load(
    network: nn.Module, state: Mapping[str, Any], failed: str, *, classes_known: bool = True
) -> None:
    """Load exactly the network's parameters, and make the network ready for inference.

    Raises `WeightsError` with a message that begins with `failed` and names what is not a parameter
    or has a table of the differences, in which an unknown number of classes is C.
    """
    expected, given = network.state_dict(), dict(state)
    if odd := _odd(given, expected):
        raise WeightsError(f"{failed}: {odd}")
    for name in expected:
        # Counts training steps; old files lack it and inference does not need it.
        if name.endswith(".num_batches_tracked"):
            given[name] = expected[name]
    if problems := _mismatches(given, expected, classes_known=classes_known):
        raise WeightsError(f"{failed}: {problems}")
    network.load_state_dict(given, strict=True)
    network.eval()


def stem_for(architecture: str, checkpoint: Checkpoint, wanted: Stem | None) -> Stem | None:
    """Return the requested stem or, by default, the one that the checkpoint states or implies.

    Raises `WeightsError` if that is ambiguous: a single 3x3 convolution may have a stride of 1
    or 2, which the parameters don't show.
    """
    stem = wanted or checkpoint.about.get("stem") or stem_of(architecture, checkpoint)
    if stem == "small" and not (wanted or checkpoint.about.get("stem")):
        raise WeightsError(
            f"{checkpoint.path}: its first convolution is 3x3, and the file does not say its "
            "stride: pass --stem small if it is 2; otherwise pass the network with --module"
        )
    return stem


def stem_of(architecture: str, checkpoint: Checkpoint) -> Stem | None:
    """Infer the stem from its convolutions; None if the architecture has only one."""
    spec = ARCHITECTURES[architecture]
    if not isinstance(spec, Residual):
        return None
    if "conv1.0.weight" in checkpoint.state:
        return "deep"
    weight = checkpoint.state.get("conv1.weight")
    if not isinstance(weight, Tensor) or weight.is_nested:
        return spec.stem
    return "small" if weight.shape[2:] == (3, 3) else "imagenet"


def width_of(architecture: str, checkpoint: Checkpoint) -> int | None:
    """Return the width of the stem."""
    return _width(architecture, checkpoint.state)


def side_of(architecture: str, checkpoint: Checkpoint) -> int | None:
    """Return the only side of images that the parameters are for; None if any will do."""
    spec = ARCHITECTURES[architecture]
    if not isinstance(spec, Bot):
        return None
    name, reduction = spec.position_parameter
    rows = _length(checkpoint.state, name)
    return None if rows is None else (rows + 1) // 2 * reduction


def _width(architecture: str, state: Mapping[str, Any]) -> int | None:
    return _length(state, ARCHITECTURES[architecture].width_parameter)


def _length(state: Mapping[str, Any], name: str) -> int | None:
    """Return a parameter's first dimension; None if missing or odd, which `load` reports."""
    value = state.get(name)
    if not isinstance(value, Tensor) or value.is_nested or value.ndim == 0:
        return None
    return value.shape[0]


def _odd(state: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return which values can't be parameters, and what they are; empty if all can."""
    odd = {}
    for name, wanted in expected.items():
        value = state.get(name, wanted)
        if not isinstance(wanted, Tensor):
            continue  # a user's own module may keep anything
        plain = isinstance(value, Tensor) and not odd_tensor(value)
        # A network may have masks or indices of its own.
        same = isinstance(value, Tensor) and value.dtype == wanted.dtype and is_dense(value)
        if not plain and not same:
            odd[name] = what_is(value)
    if not odd:
        return ""
    first, what = next(iter(odd.items()))
    more = f" ({len(odd) - 1} more are not)" if len(odd) > 1 else ""
    return f"{first} is {what}; parameters must be plain tensors of floats{more}"


def _mismatches(
    state: Mapping[str, Any], expected: Mapping[str, Any], *, classes_known: bool
) -> str:
    """Return what differs: counts on one line, then names and shapes side by side."""
    head = head_of(expected)
    absent = [name for name in expected if name not in state]
    missing = [
        _described(name, expected[name], classes_known=classes_known or head_of([name]) != head)
        for name in absent
    ]
    unexpected = [_described(name, state[name]) for name in state if name not in expected]
    shapes = [
        (_described(name, tensor), _described(name, state[name]))
        for name, tensor in expected.items()
        if name in state and isinstance(tensor, Tensor) and state[name].shape != tensor.shape
    ]
    counts = [
        f"{len(found)} {what}"
        for found, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (shapes, "of another shape"),
        )
        if found
    ]
    if not counts:
        return ""
    rows = [*shapes, *zip_longest(missing, unexpected, fillvalue="-")]
    shown = [("the network's", "the file's"), *rows[:_ROWS]]
    width = max(len(left) for left, _ in shown)
    lines = [f"  {left:<{width}}  {right}" for left, right in shown]
    if len(rows) > _ROWS:
        lines.append(f"  ... and {len(rows) - _ROWS} more")
    cause = ""
    if absent == [name for name in expected if head_of([name]) == head]:
        cause = _headless(head, head_features(expected), has_others=bool(unexpected))
    return "\n".join([", ".join(counts) + cause, *lines])


def _headless(head: str, features: int | None, *, has_others: bool) -> str:
    """Return why a checkpoint has everything but the network's last layer."""
    if has_others:
        return (
            f"; only a single linear layer with weight [C, {features or 'D'}] and bias [C] can "
            f"replace {head}, the classifier, if it is outside the network's other parts and not "
            "named after another purpose (such as projection or embedding)"
        )
    return f"; it has no {head}, the classifier, which `resnet-export train --weights` would train"


def _described(name: str, value: Any, *, classes_known: bool = True) -> str:
    if not isinstance(value, Tensor) or value.is_nested:
        return f"{name} {what_is(value)}"
    first, *others = map(str, value.shape) if value.ndim else ("scalar",)
    return f"{name} {'x'.join([first if classes_known else 'C', *others])}"

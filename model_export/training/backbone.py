"""Loads trained weights to start from, except a classifier that is missing or does not fit."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from model_export.checkpoint import Checkpoint
from model_export.loading import load
from model_export.unpickling import odd_tensor
from model_export.wrappers import head_of


def load_backbone(network: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Load the checkpoint's parameters; return the names that keep random values.

    Those are the classifier's, or none. Raises `WeightsError` if anything else is missing or has
    another shape, or if the classifier's values are not plain tensors.
    """
    expected, state = network.state_dict(), checkpoint.state
    classifier = head_of(expected)
    last = [name for name in expected if name.rpartition(".")[0] == classifier]
    whole = all(name in state and _fits(state[name], expected[name]) for name in last)
    left = [] if whole else last
    given = {name: value for name, value in state.items() if name not in left}
    given |= {name: expected[name] for name in left}
    load(network, given, f"{checkpoint.path}: does not fit the network to be trained")
    return left


def backbone_line(network: nn.Module, checkpoint: Checkpoint, left: Collection[str]) -> str:
    """Return a line saying which names `load_backbone` left random, and why."""
    begun = f"from {checkpoint.path}; initialised randomly: {', '.join(left) or 'nothing'}"
    expected = network.state_dict()
    own = head_of(expected)
    head = f"its classifier {checkpoint.head or own}"
    if not left:
        return f"{begun}; {head} is loaded too"
    weight, wanted = checkpoint.state.get(f"{own}.weight"), expected[f"{own}.weight"]
    if not isinstance(weight, Tensor):
        return f"{begun}, since it has no classifier"
    if weight.shape[1:] == wanted.shape[1:] and weight.shape != wanted.shape:
        return f"{begun}, since {head} has {weight.shape[0]} classes, not {wanted.shape[0]}"
    return f"{begun}, since {head} has another shape"


def _fits(value: object, expected: Tensor) -> bool:
    """Return whether a value has that shape; True for odd values, which `load` reports."""
    if not isinstance(value, Tensor) or odd_tensor(value):
        return True
    return value.shape == expected.shape

"""Trained weights to begin with: all but a classifier that is missing or of other classes."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from model_export.checkpoint import Checkpoint
from model_export.loading import load
from model_export.unpickling import odd_tensor
from model_export.wrappers import head_of


def load_backbone(network: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Load what the checkpoint has of the network; return the names that keep random values.

    Those are the classifier's, or none. Raises `WeightsError` when anything else is missing or of
    another shape, and when the classifier's values are no plain tensors.
    """
    expected, state = network.state_dict(), checkpoint.state
    classifier = head_of(expected)
    last = [name for name in expected if name.rpartition(".")[0] == classifier]
    whole = all(name in state and _fits(state[name], expected[name]) for name in last)
    left = [] if whole else last
    given = {name: value for name, value in state.items() if name not in left}
    given |= {name: expected[name] for name in left}
    load(network, given, f"{checkpoint.path}: does not fit the network that is to be trained")
    return left


def backbone_line(network: nn.Module, checkpoint: Checkpoint, left: Collection[str]) -> str:
    """Say in one line which names `load_backbone` left, and why; or that it left none."""
    begun = f"from {checkpoint.path}; begun anew: {', '.join(left) or 'nothing'}"
    expected = network.state_dict()
    own = head_of(expected)
    head = f"its classifier {checkpoint.head or own}"
    if not left:
        return f"{begun}; {head} is taken too"
    weight, wanted = checkpoint.state.get(f"{own}.weight"), expected[f"{own}.weight"]
    if not isinstance(weight, Tensor):
        return f"{begun}, since it has no classifier"
    if weight.shape[1:] == wanted.shape[1:] and weight.shape != wanted.shape:
        return f"{begun}, since {head} is of {weight.shape[0]} classes, not {wanted.shape[0]}"
    return f"{begun}, since {head} is of another shape"


def _fits(value: object, expected: Tensor) -> bool:
    """Return whether it is of that shape; what is no plain tensor has none, and `load` says so."""
    if not isinstance(value, Tensor) or odd_tensor(value):
        return True
    return value.shape == expected.shape

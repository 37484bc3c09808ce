"""Finds a network's names in a file, whatever trainers put in front of and beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from model_export.checkpoint import Checkpoint
from model_export.errors import WeightsError
from model_export.unpickling import is_dense

# What torch.compile, FSDP and activation checkpointing insert anywhere in a name.
_INNER = re.compile(
    r"(?:_orig_mod|_fsdp_wrapped_module|_forward_module|_checkpoint_wrapped_module)\."
)


def _named(*words: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[._])(?:{'|'.join(words)})\d*(?:[._]|$)", re.IGNORECASE)


# What trainers store beside a network, but inference does not use: losses with their class weights,
# counts of metrics, optimizers' buffers, auxiliary classifiers for training,
_ASIDE = _named(
    "criteri(?:on|a)", "loss(?:es)?", "class_weights?", "pos_weight", "metrics?", "acc",
    "accuracy", "auc", "auroc", "f1", "precision", "recall", "confmat", "tp", "fp", "tn", "fn",
    "correct", "total", "optimi[sz]er", "optim", "scheduler", "scaler",
    "aux(?:iliary)?(?:_?logits)?", "rot(?:ation)?", "jigsaw",
)  # fmt: skip
# copies of the network itself, and their counters.
_COPY = _named("ema", "averaged?", "avg", "swa", "shadow", "teacher", "momentum", "target")
_COPY_COUNTERS = frozenset({"decay", "num_updates", "updates"})

# A layer with such a name is not a classifier, but may be part of the computation.
_NO_HEAD = _named("proj(?:ect(?:ion|or))?", "embed(?:ding|der)?s?", "neck", "regress(?:ion|or)")

_COUNTER = "num_batches_tracked"  # old files lack it

_LINEAR = ("weight", "bias")  # of a linear layer

_NAMED = 3  # names to list of a group that is left out or ambiguous


@dataclass(frozen=True, slots=True)
class _Network:
    """The names of a network, those that every file has, and their top-level prefixes."""

    all_names: frozenset[str]
    names: frozenset[str]
    children: frozenset[str]
    head: str  # its last layer

    @classmethod
    def of(cls, names: Collection[str]) -> _Network:
        return cls(
            frozenset(names),
            frozenset(name for name in names if not name.endswith(_COUNTER)),
            frozenset(name.partition(".")[0] for name in names),
            head_of(names),
        )


def head_of(names: Collection[str]) -> str:
    """Return the name of a network's last layer, given its parameters' names in order."""
    return list(names)[-1].rpartition(".")[0] if names else ""


def unwrapped(
    checkpoint: Checkpoint,
    networks: Sequence[Collection[str]],
    features: Callable[[Mapping[str, Any]], int | None],
) -> Checkpoint:
    """Strip the common prefix of the network's names, and leave out what does not belong to it.

    `networks` are the possible sets of names. What is left out is listed in `beside`: values that
    are not tensors, and tensors that by their names belong to a loss, a metric, an optimizer, an
    auxiliary classifier for training, or a copy of the network.

    If the network lacks exactly its last layer, and the only other parameters are a linear layer
    that can replace it, that layer is used and named in `head`. It must have the `features` that
    the last layer would have, given the parameters found, must not be in another part of the
    network, and must not be named after another purpose.

    Other names are kept, for comparison with the network's. Raises `WeightsError` if there are
    several complete networks, none more likely than the others.
    """
    known = [_Network.of(names) for names in networks]
    state = _without_inner(checkpoint.state, known)
    prefix, network = _prefix(state, known, checkpoint)
    kept: dict[str, Any] = {}
    others: dict[str, tuple[str, Any]] = {}  # by the names that they have in the file
    beside = []
    for stored, value in state.items():
        name = stored.removeprefix(prefix)
        if _is_beside(name, value, network, inside=stored.startswith(prefix)):
            beside.append(stored)
        elif stored.startswith(prefix) and name in network.all_names:
            kept[name] = value
        else:  # possibly a layer whose name the network has too
            odd = stored in network.all_names
            others[stored] = (f"{stored} (not in {prefix})" if odd else name, value)
    head = _lone_head(others, kept, network, features)
    if head:
        kept |= {f"{network.head}.{leaf}": others[f"{head}.{leaf}"][1] for leaf in _LINEAR}
    else:
        kept |= dict(others.values())
    return replace(checkpoint, state=kept, beside=tuple(beside), head=head)


def _lone_head(
    others: Mapping[str, tuple[str, Any]],
    kept: Mapping[str, Any],
    network: _Network,
    features: Callable[[Mapping[str, Any]], int | None],
) -> str:
    """Return the name of a remaining linear layer that can replace the last one, or ""."""
    own = {f"{network.head}.{leaf}" for leaf in _LINEAR}
    head = head_of(others)
    if network.names - set(kept) != own or others.keys() != {f"{head}.{leaf}" for leaf in _LINEAR}:
        return ""
    (name, weight), (_, bias) = (others[f"{head}.{leaf}"] for leaf in _LINEAR)
    part = name.partition(".")[0]
    elsewhere = part in network.children and part != network.head.partition(".")[0]
    if elsewhere or _NO_HEAD.search(name):
        return ""
    if not all(isinstance(value, Tensor) and is_dense(value) for value in (weight, bias)):
        return ""
    is_linear = weight.ndim == 2 and bias.shape == weight.shape[:1]
    return head if is_linear and weight.shape[1] == features(kept) else ""


def head_line(checkpoint: Checkpoint) -> str:
    """Return a line saying which layer is used as the network's last; empty if it is its own."""
    if not checkpoint.head:
        return ""
    return f"{checkpoint.path}: its linear layer {checkpoint.head} is used as the network's last"


def beside_line(checkpoint: Checkpoint) -> str:
    """Return a line saying what was left out; empty if nothing was."""
    if not checkpoint.beside:
        return ""
    return f"{checkpoint.path}: left out, not part of the network: {_some(checkpoint.beside)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _without_inner(state: Mapping[str, Any], networks: Sequence[_Network]) -> Mapping[str, Any]:
    if any(_INNER.search(name) for network in networks for name in network.names):
        return state  # they are the network's own names
    renamed = {_INNER.sub("", name): value for name, value in state.items()}
    return renamed if len(renamed) == len(state) else state


def _prefix(
    state: Mapping[str, Any], networks: Sequence[_Network], checkpoint: Checkpoint
) -> tuple[str, _Network]:
    """Return the prefix of the network's names in the file, and which of the networks it is."""
    counts = [(network, _counts(state, network)) for network in networks]
    whole = {
        prefix: network
        for network, found in counts
        for prefix, count in found.items()
        if count == len(network.names)
    }
    if "" in whole:
        return "", whole[""]
    # A copy only if there is nothing else.
    likely = [prefix for prefix in whole if not _COPY.search(prefix)] or list(whole)
    if len(likely) > 1:
        raise WeightsError(
            f"{checkpoint.path}: holds several networks, {_some(sorted(likely))}; "
            "--weights-entry selects one"
        )
    if likely:
        return likely[0], whole[likely[0]]
    # None is complete: use the best match, so that differences are shown side by side.
    network, found = max(counts, key=lambda one: max(one[1].values(), default=0))
    prefix, count = max(found.items(), key=lambda one: one[1], default=("", 0))
    return (prefix if 2 * count >= len(network.names) else ""), network


def _counts(names: Iterable[str], network: _Network) -> Counter[str]:
    """Count the network's names after each prefix that is empty or ends with a dot."""
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while True:
            if name[start:] in network.names:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1
            if start == 0:
                break
    return counts


def _is_beside(name: str, value: Any, network: _Network, *, inside: bool) -> bool:
    if inside and name in network.all_names:
        return False
    if not isinstance(value, Tensor):
        return True
    if name.partition(".")[0] in network.children:
        return False  # it may be a layer of a similar network
    is_count = is_dense(value) and value.ndim == 0 and not value.is_floating_point()
    if is_count or _ASIDE.search(name):
        return True
    return bool(_COPY.search(name)) and (
        name.rpartition(".")[2] in _COPY_COUNTERS or _mirrors(name, network)
    )


def _mirrors(name: str, network: _Network) -> bool:
    """Return whether it ends with one of the network's names, with or without dots."""
    return any(name.endswith((own, own.replace(".", ""))) for own in network.names)

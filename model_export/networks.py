"""The network that a command works on: one of ours with its weights, or a user's module."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model_export.checkpoint import Checkpoint, read_checkpoint
from model_export.contents import shown
from model_export.errors import OptionsError, WeightsError
from model_export.loading import build_network, head_features, load, of_architecture, stem_for
from model_export.options import IMAGENET, NetworkOptions, WeightsOptions
from model_export.weights import (
    OfficialWeights,
    cache_folder,
    fetch,
    known_weights,
    official_weights,
)
from model_export.wrappers import beside_line, head_line, unwrapped
from service.contract import Weights


@dataclass(frozen=True, slots=True)
class Trained:
    """A network with what its contract says about it.

    `official` is set if its weights are known ones, `about` if `resnet-export train` made them.
    """

    network: nn.Module
    architecture: str
    weights: Weights
    official: OfficialWeights | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def trained_network(options: NetworkOptions) -> Trained:
    """Build the network that the options specify, with its weights.

    Raises `OptionsError`, `WeightsError` or `DownloadError`.
    """
    if options.architecture is None:
        return _foreign(options)
    checkpoint = find_whole(options.weights, options.architecture)
    official = known_weights(options.architecture, checkpoint.sha256)
    weights = Weights(
        source=options.source_note or _source(checkpoint, official), sha256=checkpoint.sha256
    )
    stem = stem_for(options.architecture, checkpoint, options.stem)
    network = build_network(options.architecture, checkpoint, stem)
    return Trained(network, options.architecture, weights, official, checkpoint.about)


def find_checkpoint(options: WeightsOptions, architecture: str) -> Checkpoint:
    """Read the file of `--weights`, downloading it first if that is `imagenet`.

    Raises `WeightsError`, also if `resnet-export train` recorded another architecture in the file,
    since some architectures have the same names and shapes.
    """
    path = Path(options.source or "")
    if options.source == IMAGENET:
        path = fetch(official_weights(architecture), cache_folder(options.cache_dir))
    checkpoint = read_checkpoint(path, options.entry)
    trained = checkpoint.about.get("architecture", architecture)
    if trained != architecture:
        raise WeightsError(f"{path}: was trained as {shown(trained)}, not as {architecture}")
    checkpoint = of_architecture(architecture, checkpoint)
    _tell(beside_line(checkpoint))
    return checkpoint


def find_whole(options: WeightsOptions, architecture: str) -> Checkpoint:
    """Read the file like `find_checkpoint`, and print which layer is used as the classifier."""
    checkpoint = find_checkpoint(options, architecture)
    _tell(head_line(checkpoint))
    return checkpoint


def _tell(*lines: str) -> None:
    for line in filter(None, lines):
        sys.stderr.write(f"warning: {line}\n")


def _foreign(options: NetworkOptions) -> Trained:
    """Call a factory in the user's own code; the weights are in its result or in a file."""
    module, given = options.module or "", options.weights
    network = _make(module)
    if given.source is None:
        weights = Weights(
            source=options.source_note or f"as returned by {module}", sha256=_digest(network)
        )
    else:
        checkpoint = read_checkpoint(Path(given.source), given.entry)
        own = network.state_dict()
        checkpoint = unwrapped(checkpoint, [own.keys()], lambda _: head_features(own))
        _tell(beside_line(checkpoint), head_line(checkpoint))
        load(network, checkpoint.state, f"{checkpoint.path}: does not fit {module}")
        weights = Weights(
            source=options.source_note or _source(checkpoint, None), sha256=checkpoint.sha256
        )
    return Trained(network.eval(), module.rpartition(":")[2], weights)


def _make(spec: str) -> nn.Module:
    module_name, _, name = spec.partition(":")
    # Like `python -m`: modules in the current folder are found.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(module_name), name)
        network = factory()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        text = str(error).splitlines()
        raise OptionsError(
            f"--module {spec}: {type(error).__name__}: {text[0] if text else 'no message'}"
        ) from error
    if not isinstance(network, nn.Module):
        raise OptionsError(
            f"--module {spec}: returned a {type(network).__name__}, not a torch.nn.Module"
        )
    return network


def _digest(network: nn.Module) -> str:
    """Return the SHA-256 over names and values of all parameters and buffers, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor):  # a module may keep anything else there
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _source(checkpoint: Checkpoint, official: OfficialWeights | None) -> str:
    if official is None:
        entry = f", entry {checkpoint.entry}" if checkpoint.entry else ""
        head = f", classifier {checkpoint.head}" if checkpoint.head else ""
        return f"{checkpoint.path.name}{entry}{head}"
    return (
        f"torchvision {official.file}; as published, top-1 {official.top1} % and "
        f"top-5 {official.top5} % on ImageNet-1k's validation set"
    )

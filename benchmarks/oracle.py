"""Compares each architecture with torchvision's or timm's: same state dict, same logits.

    python3 -m venv build/oracle
    build/oracle/bin/pip install torchvision timm
    build/oracle/bin/python benchmarks/oracle.py [NAME ...] > benchmarks/oracle.md

It needs an environment of its own: torchvision wants the release of PyTorch that it was built for.
Random weights; normalisations have drawn scales and the statistics of random images, so that images
are told apart, and a shortcut that is computed another way shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import timm
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model_export.architectures import ARCHITECTURES, usual_side
from model_export.architectures.build import build

_ALLOWED = 1e-4  # relative to the largest logit
_DILATED = [False, True, True]


def oracle_of(name: str) -> tuple[str, Callable[[], torch.nn.Module]]:
    """Return what the oracle is, and how it is made."""
    if name.startswith("dilated_"):
        base = name.removeprefix("dilated_")
        make = torchvision.models.get_model_builder(base)
        return (
            f"torchvision {base}, replace_stride_with_dilation={_DILATED}",
            lambda: make(weights=None, replace_stride_with_dilation=_DILATED),
        )
    if name == "separable_resnet50":
        return "torchvision resnet50, its 3x3 convolutions replaced (own)", separable_resnet50
    if name == "cbam_resnet50":
        options = {"attn_layer": "cbam"}
        return (
            f"timm resnet50, block_args={options}",
            lambda: timm.create_model("resnet50", block_args=options),
        )
    if name in torchvision.models.list_models():
        make = torchvision.models.get_model_builder(name)
        return f"torchvision {name}", lambda: make(weights=None)
    return f"timm {name}", lambda: timm.create_model(name)


def separable_resnet50() -> torch.nn.Module:
    """Replace 3x3 convolutions by depthwise separable ones, dilated where they have no stride."""
    network = torchvision.models.resnet50(weights=None)
    for module in network.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            channels, (stride, _) = module.conv2.in_channels, module.conv2.stride
            module.conv2 = torch.nn.Sequential()
            for part, options in (
                ("depthwise", {"kernel_size": 3, "stride": stride, "padding": 3 - stride,
                               "dilation": 3 - stride, "groups": channels}),
                ("pointwise", {"kernel_size": 1}),
            ):  # fmt: skip
                convolution = torch.nn.Conv2d(channels, channels, bias=False, **options)
                module.conv2.add_module(part, convolution)
    return network


def randomise(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Draw what training would have changed and initialisation leaves at 0 or 1."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 0.8)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = None  # the plain average
    with torch.no_grad():
        network.train()(images)
    network.eval()


def main() -> int:
    """Print the table, of all or the named networks; return 1 if a network's logits are others."""
    print("# Logits compared with torchvision and timm\n")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    print(f"`benchmarks/oracle.py` with {versions}; same random weights; 2 images.\n")
    print("| architecture | oracle | parameters | max difference, relative to the largest logit |")
    print("|---|---|--:|--:|")
    failed = 0
    for name in sys.argv[1:] or ARCHITECTURES:
        torch.manual_seed(0)
        title, make = oracle_of(name)
        theirs, ours = make(), build(name).eval()
        images = torch.randn(2, 3, usual_side(name), usual_side(name))
        randomise(theirs, images)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        with torch.inference_mode():
            expected, got = theirs(images), ours(images)
        difference = float((got - expected).abs().max() / expected.abs().max())
        failed += not difference <= _ALLOWED
        count = sum(parameter.numel() for parameter in ours.parameters())
        print(f"| {name} | {title} | {count:,} | {difference:.1e} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

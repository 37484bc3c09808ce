"""`resnet-export train`: from a folder of images per class to a checkpoint."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model_export.architectures import ARCHITECTURES, Bot, Residual, Stem
from model_export.architectures.build import build
from model_export.architectures.layers import ResidualBlock
from model_export.checkpoint import TRAINED, Checkpoint
from model_export.errors import OptionsError
from model_export.files import resolved
from model_export.loading import side_of, stem_for, width_of
from model_export.networks import find_checkpoint
from model_export.preprocessing import preprocessing_of
from model_export.training.backbone import backbone_line, load_backbone
from model_export.training.data import (
    Augmentation,
    Example,
    TrainingImages,
    ValidationImages,
    check_images,
    find_classes,
    split,
)
from model_export.training.loop import Trainer
from model_export.training.options import Amp, TrainOptions
from model_export.training.recipe import Recipe, as_plain
from model_export.training.state import BEST, RunFolder, best_epoch
from model_export.weights import known_weights
from service.preprocess.decode import prepare_decoding

_SCRATCH = {"sgd": 0.1, "sgd-noise": 0.1, "adamw": 1e-3}  # learning rates for a batch of 256
_FINE_TUNED = {"sgd": 0.02, "sgd-noise": 0.02, "adamw": 2e-4}
_USUAL_BATCH = 256
_SHOWN = 5  # classes


def train_command(options: TrainOptions) -> None:
    """Train as the options say; print a line per epoch, and how to export the result."""
    prepare_decoding()
    classes, training, validation = _examples(options)
    begun = (
        find_checkpoint(options.weights, options.architecture) if options.weights.source else None
    )
    preprocessing = preprocessing_of(
        options.preprocessing,
        known_weights(options.architecture, begun.sha256) if begun else None,
        fixed=_fixed_side(options, begun),
        trained=begun.about.get("preprocessing") if begun else None,
    )
    recipe = _recipe(options, max(preprocessing.input_size), len(training))
    stem, width = _shape(options, begun)
    augmentation = Augmentation(**asdict(options.augmentation))
    facts = {
        # What `export` needs to know in addition to the parameters.
        TRAINED: {
            "architecture": options.architecture,
            "stem": stem,
            "labels": classes,
            "preprocessing": preprocessing.model_dump(mode="json"),
        },
        # What else determines the result.
        "recipe": as_plain(recipe)
        | {
            "augmentation": asdict(augmentation),
            "width": width,
            "weights": begun.sha256 if begun else None,
            "images": _digest(options.folder, training),
            "validation images": _digest(options.held_out.folder or options.folder, validation),
        },
    }
    torch.manual_seed(recipe.seed)
    # For a resumed run, the state has all parameters.
    network = _network(
        options.architecture,
        {"classes": len(classes), "width": width, "stem": stem, "side": preprocessing.crop},
        None if options.resume else begun,
    )
    folder = RunFolder(options.output)
    state = folder.open(resume=options.resume)
    if state is not None:
        _check_same(state, facts, options.output)
    trainer = Trainer(
        network,
        recipe,
        preprocessing,
        (
            TrainingImages(training, preprocessing, augmentation, recipe.seed),
            ValidationImages(validation, preprocessing),
        ),
        device=_device(options),
        workers=options.workers,
    )
    if state is not None:
        trainer.restore(state)
    else:  # so that a run that is killed in its first epoch can be resumed too
        check_images([*training, *validation])
        folder.save_last(trainer.state() | facts)
    _say(f"classes: {', '.join(classes[:_SHOWN])}{', ...' if len(classes) > _SHOWN else ''}")
    _say(
        f"{options.architecture}, {len(classes)} classes, {len(training)} images to train on and "
        f"{len(validation)} held out"
    )
    _run(trainer, folder, recipe.epochs, options.held_out.patience, facts)
    _say_what_next(options, folder, len(validation))


def _run(
    trainer: Trainer, folder: RunFolder, epochs: int, patience: int | None, facts: dict[str, Any]
) -> None:
    """Train to the end, or until there is no improvement; `facts` are saved with each state."""
    while trainer.epoch < epochs:
        if patience is not None and folder.history:
            since = trainer.epoch - 1 - best_epoch(folder.history)["epoch"]
            if since >= patience:
                _say(f"no improvement for {since:.0f} epochs, so training ends early")
                return
        metrics = trainer.run_epoch()
        folder.note(metrics)
        _say(
            f"epoch {metrics['epoch']:.0f}: loss {metrics['train_loss']:.3f}, held out: loss "
            f"{metrics['val_loss']:.3f}, top-1 {metrics['val_top1']:.2%}; "
            f"{metrics['seconds']:.0f} s"
        )
        if best_epoch(folder.history) is metrics:
            averaged = trainer.average.module.state_dict()
            folder.save_best({"model_ema": averaged, TRAINED: facts[TRAINED]})
        folder.save_last(trainer.state() | facts)


def _say_what_next(options: TrainOptions, folder: RunFolder, held_out: int) -> None:
    best, path = best_epoch(folder.history), options.output / BEST
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", resolved(options.output).name).strip("-._") or "model"
    model = Path("models") / f"{name}.onnx"
    _say(
        f"{path}: top-1 {best['val_top1']:.2%} on the {held_out} held-out images (epoch "
        f"{best['epoch']:.0f})"
    )
    _say(
        f"resnet-export export {options.architecture} --weights {shlex.quote(str(path))} "
        f"--output {shlex.quote(str(model))}"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _examples(options: TrainOptions) -> tuple[list[str], list[Example], list[Example]]:
    classes, examples = find_classes(options.folder)
    held_out = options.held_out
    if held_out.folder is None:
        return classes, *split(examples, held_out.fraction, options.recipe.seed)
    others, validation = find_classes(held_out.folder)
    if others != classes:
        odd = sorted(set(classes) ^ set(others))
        raise OptionsError(f"--validation {held_out.folder}: has different classes: {odd[0]}, ...")
    return classes, examples, validation


def _recipe(options: TrainOptions, side: int, images: int) -> Recipe:
    usual, said = _FINE_TUNED if options.weights.source else _SCRATCH, options.recipe
    step = min(said.batch, images)  # a step can't have more images than there are
    return Recipe(
        epochs=said.epochs,
        batch=said.batch,
        optimiser=said.optimiser,
        learning_rate=said.learning_rate or usual[said.optimiser] * step / _USUAL_BATCH,
        weight_decay=said.weight_decay,
        warmup_epochs=(
            min(1.0, said.epochs / 2) if said.warmup_epochs is None else said.warmup_epochs
        ),
        label_smoothing=said.label_smoothing,
        ema_decay=said.ema_decay,
        sizes=said.sizes or ((side, said.epochs),),
        seed=said.seed,
        amp=_amp(options),
    )


def _shape(options: TrainOptions, begun: Checkpoint | None) -> tuple[Stem | None, int | None]:
    """Return stem and width: as requested, or the weights', or the architecture's."""
    if begun is not None:
        return (
            stem_for(options.architecture, begun, options.stem),
            options.width or width_of(options.architecture, begun),
        )
    spec = ARCHITECTURES[options.architecture]
    stem = options.stem or (spec.stem if isinstance(spec, Residual) else None)
    return stem, options.width


def _fixed_side(options: TrainOptions, begun: Checkpoint | None) -> int | None:
    """Return the only side of images that the network will take; None if any will do."""
    spec = ARCHITECTURES[options.architecture]
    if not isinstance(spec, Bot):
        return None
    wanted = options.preprocessing.input_size
    if isinstance(wanted, tuple):
        raise OptionsError(f"--input-size: {options.architecture} takes square images only")
    trained = side_of(options.architecture, begun) if begun else None
    side = trained or wanted or spec.side
    if any(other != side for other, _ in options.recipe.sizes or ()):
        raise OptionsError(f"--sizes: {options.architecture} takes images of one size only: {side}")
    return side


def _amp(options: TrainOptions) -> Amp:
    if options.recipe.amp != "auto":
        return options.recipe.amp
    if _device(options).type == "cpu":
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _device(options: TrainOptions) -> torch.device:
    available = torch.cuda.is_available()
    if options.device == "cuda" and not available:
        raise OptionsError("--device cuda: PyTorch finds no GPU here")
    return torch.device("cuda" if available and options.device != "cpu" else "cpu")


def _network(architecture: str, shape: dict[str, Any], begun: Checkpoint | None) -> nn.Module:
    network = build(architecture, **shape)
    if begun is not None:
        left = load_backbone(network, begun)
        _say(backbone_line(network, begun, left))
    else:
        _zero_last_norms(network)
    return network


def _zero_last_norms(network: nn.Module) -> None:
    """Make each residual block start as the identity (https://arxiv.org/abs/1706.02677)."""
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.last_norm.weight)


def _digest(folder: Path, examples: Sequence[Example]) -> str:
    """Return a digest of the images' names and classes, to recognise the same set."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(os.fsencode(example.path.relative_to(folder)))
        digest.update(f"\0{example.index}\0".encode())
    return digest.hexdigest()


def _check_same(state: dict[str, Any], facts: dict[str, Any], folder: Path) -> None:
    """Raise `OptionsError` if a resumed run would differ from how it was started."""
    differences = [
        f"{name} (then {state[part][name]}, now {value})"
        for part, values in facts.items()
        for name, value in values.items()
        if name in state[part] and state[part][name] != value
    ]
    if differences:
        raise OptionsError(
            f"{folder}: its run was started differently, so it can't be resumed: "
            f"{', '.join(differences)}; to start afresh, use another --output or remove it"
        )

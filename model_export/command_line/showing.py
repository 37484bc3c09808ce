"""The commands about model files that are there, and `list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model_export.command_line import arguments as given
from model_export.command_line import values
from model_export.command_line.jobs import Job, job
from model_export.files import resolved
from model_export.options import AllowOptions, CalibrateOptions, EvaluateOptions, WeightsOptions
from service.engine.providers import CPU


def verify(
    *,
    file: given.ModelFile,
    weights: given.Weights = None,
    weights_entry: given.WeightsEntry = None,
    cache_dir: given.CacheDir = None,
    provider: given.Provider = CPU.name,
    precision: given.ServedPrecision = "exact",
) -> Job:
    """Verify a model file again.

    Replay its golden cases on --provider; with --weights, compare it with PyTorch as during
    export.
    """
    options = WeightsOptions(weights, weights_entry, cache_dir)
    options.check_file()
    return job("model_export.commands", "verify_command", file, options, provider, precision)


def describe(
    *,
    file: given.ModelFile,
    json: given.Json = False,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Also measure its speed on this CPU.")
    ] = False,
) -> Job:
    """Describe a model file; --json includes its golden cases."""
    return job("model_export.describe", "describe_command", file, as_json=json, benchmark=benchmark)


def show_list(*, json: given.Json = False) -> Job:
    """List the architectures."""
    return job("model_export.listing", "list_command", as_json=json)


def evaluate(  # noqa: PLR0913 - each is an option
    *,
    file: given.ModelFile,
    images: given.Images,
    limit: given.Limit = None,
    provider: given.Provider = "auto",
    precision: given.ServedPrecision = "exact",
    data_set: given.DataSet = None,
    write: Annotated[
        bool, typer.Option("--write", help="Store top-1 and top-5 in the file's contract.")
    ] = False,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="Show all classes, not only the worst.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.html", help="Write a reliability plot.")
    ] = None,
    json: given.Json = False,
) -> Job:
    """Measure accuracy on labelled images.

    Report top-1, top-5 and calibration. Each image's class is taken from its folder, the beginning
    of its name, or val_annotations.txt. --json always includes all classes.
    """
    options = EvaluateOptions(
        file, images, limit, provider, precision, data_set or resolved(images).name, write,
        all_classes, plot, json,
    )  # fmt: skip
    return job("model_export.evaluate", "evaluate_command", options)


def allow(
    *,
    file: given.ModelFile,
    precision: given.FasterPrecision,
    images: given.OwnImages,
    limit: given.Limit = None,
    data_set: given.DataSet = None,
    min_agreement: Annotated[
        float,
        typer.Option(
            "--min-agreement",
            metavar="FRACTION",
            parser=values.fraction,
            help="Least share of labels that are float32's, at 95 % confidence.",
        ),
    ] = 0.95,
) -> Job:
    """Allow a float32 file to be served in a faster precision.

    Measures on this machine how far its answers to real images agree with those in float32, and
    writes that and a tolerance into the file's contract. The graph stays. The images' classes need
    not be known.
    """
    options = AllowOptions(
        file, precision, images, limit, data_set or resolved(images).name, min_agreement
    )
    return job("model_export.allow", "allow_command", options)


def calibrate(  # noqa: PLR0913 - each is an option
    *,
    file: given.ModelFile,
    images: given.Images,
    outside: Annotated[
        Path | None,
        typer.Option(
            "--outside", metavar="DIR",
            help="Folder or tar of images that are of no class, to judge how well they are told "
            "apart; `?abstain=true` needs it.",
        ),
    ] = None,
    data_set: given.DataSet = None,
    provider: given.Provider = "auto",
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", parser=values.seed, help="Draws the parts.")
    ] = 0,
    fit_share: Annotated[
        float,
        typer.Option(
            "--fit-share", metavar="FRACTION", parser=values.share,
            help="Share of the images to fit on, half of them for the temperature and the "
            "embedding, half for coverage; the others test.",
        ),
    ] = 0.5,
    kept: Annotated[
        float,
        typer.Option(
            "--kept", metavar="FRACTION", parser=values.share,
            help="Share of images like these that `?abstain=true` does not mark.",
        ),
    ] = 0.95,
) -> Job:  # fmt: skip
    """Measure how far answers can be trusted.

    On labelled images that were not used in training, fit a temperature, label sets that have the
    right label with a given probability, and the distribution of the embedding; test them on
    others, and write them into the file's metadata. The contract, the graph and answers to ordinary
    requests do not change. Each image's class is found as in `evaluate`.
    """
    options = CalibrateOptions(
        file, images, data_set or resolved(images).name, outside, provider, seed, fit_share, kept
    )
    return job("model_export.calibrate", "calibrate_command", options)


def compare(
    *,
    first: given.ModelFile,
    second: given.SecondFile,
    images: given.Images,
    limit: given.Limit = None,
    json: given.Json = False,
) -> Job:
    """Compare two model files on the same images.

    Compare their predictions, their speed on this CPU and their properties. The images need no
    labels.
    """
    return job(
        "model_export.compare", "compare_command", (first, second), images, limit, as_json=json
    )

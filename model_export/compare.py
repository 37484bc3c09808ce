"""`resnet-export compare`: compares two model files on the same images."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from model_export.agreement import agreement_of
from model_export.describe import Described, describe_agreement, table_of
from model_export.errors import OptionsError
from model_export.files import resolved
from model_export.images import open_images, spread
from model_export.model_file import read_model
from model_export.pixels import batches
from model_export.speed import latencies_ms
from service.contract import Agreement, ModelContract
from service.engine.base import Engine, probabilities
from service.engine.onnx import load_engine
from service.engine.providers import CPU

_ROWS = ("name", "architecture", "input", "precision", "parameters", "GFLOPs", "size",
         "agreement with float32", "accuracy", "speed")  # fmt: skip
"""The rows of `describe` that may differ or that help to choose a file."""


def compare_command(
    files: tuple[Path, Path], images: Path, limit: int | None, *, as_json: bool
) -> None:
    """Compare two model files, and print a table like that of `describe`, or JSON."""
    contracts = [read_model(file)[1] for file in files]
    if contracts[0].labels != contracts[1].labels:
        raise OptionsError(
            f"{files[0]} and {files[1]} have different labels, so they can't be compared"
        )
    agreement = _agreement(files, contracts, images, limit)
    described = [Described.of(*each) for each in zip(files, latencies_ms(files), strict=True)]
    if as_json:
        facts = {
            "files": [each.facts() for each in described],
            "agreement": agreement.model_dump(),
        }
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    console = Console()
    console.print(table_of(described, _ROWS))
    console.print(
        describe_agreement(agreement, "with the first file"),
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _agreement(
    files: Sequence[Path], contracts: list[ModelContract], source: Path, limit: int | None
) -> Agreement:
    """Run both files on the same images, each with its own preprocessing."""
    engines = [load_engine(file, provider=CPU.name) for file in files]
    try:
        with open_images(source) as images:
            names = spread(images.names, limit)

            def answers_of(
                engine: Engine, contract: ModelContract, title: str | None
            ) -> Iterator[NDArray[np.float32]]:
                for batch in batches(images, names, contract.preprocessing, title):
                    yield probabilities(engine, [*batch])

            titles = ("comparing", None)  # one bar for both
            answers = map(answers_of, engines, contracts, titles)
            return agreement_of(zip(*answers, strict=True), resolved(source).name)
    finally:
        for engine in engines:
            engine.close()

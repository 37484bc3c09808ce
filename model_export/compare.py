"""`resnet-export compare`: two model files on the same images."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model_export.agreement import agreement_of
from model_export.describe import describe_agreement
from model_export.errors import OptionsError
from model_export.images import open_images
from model_export.model_file import read_model
from model_export.pixels import batches
from model_export.speed import BATCHES, latencies_ms
from service.contract import Agreement, ModelContract
from service.cpus import cpu_model
from service.engine.base import Engine, probabilities
from service.engine.onnx import load_engine


def compare_command(options: Namespace) -> None:
    """Compare as the options say, and print a table, or JSON."""
    files = [options.first, options.second]
    contracts = [read_model(file)[1] for file in files]
    if contracts[0].labels != contracts[1].labels:
        raise OptionsError(
            f"{files[0]} and {files[1]} have other labels, so their answers can't be compared"
        )
    agreement = _agreement(files, contracts, options.images, options.limit)
    times = latencies_ms(files)
    rows = [_facts(*each) for each in zip(files, contracts, times, strict=True)]
    if options.json:
        facts = {"cpu": cpu_model(), "files": rows, "agreement": agreement.model_dump()}
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    table = Table(title=cpu_model())
    table.add_column()
    for file in files:
        table.add_column(escape(str(file)), justify="right", overflow="fold")
    for name in rows[0]:
        if name != "file":
            table.add_row(name, *(_shown(row[name]) for row in rows))
    console = Console()
    console.print(table)
    console.print(
        describe_agreement(agreement, "the first file's"),
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _agreement(
    files: list[Path], contracts: list[ModelContract], source: Path, limit: int | None
) -> Agreement:
    """Run both files on the same images, each with its own preprocessing."""
    engines = [load_engine(file, provider="cpu") for file in files]
    try:
        with open_images(source) as images:
            names = images.names[:limit]

            def answers_of(
                engine: Engine, contract: ModelContract, title: str | None
            ) -> Iterator[NDArray[np.float32]]:
                for batch in batches(images, names, contract.preprocessing, title):
                    yield probabilities(engine, [*batch])

            titles = ("comparing", None)  # one bar for both
            answers = map(answers_of, engines, contracts, titles)
            return agreement_of(zip(*answers, strict=True), source.resolve().name)
    finally:
        for engine in engines:
            engine.close()


def _facts(file: Path, contract: ModelContract, times: dict[int, float]) -> dict[str, Any]:
    accuracy = contract.accuracy
    return {
        "file": str(file),
        "precision": contract.precision,
        "size_bytes": file.stat().st_size,
        **{f"batch_{size}_ms": times[size] for size in BATCHES},
        **{f"batch_{size}_images_per_s": size / times[size] * 1000 for size in BATCHES},
        "accuracy_top1": accuracy.top1 if accuracy else None,
    }


def _shown(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Verifies that label sets cover as often as they promise, on images that fitted nothing.

    python benchmarks/coverage.py LABELLED [--file MODEL] [--repeats 200] [--over-http 200]

Half of the labelled images calibrate a copy of the file (`resnet-export calibrate`); a server of
that copy answers others with `?coverage=`, and the sets of all others are counted as the service
makes them. Chance decides which half an image is in, so the same is repeated with many other
halves of the same answers: on average over them, the coverage is what a level promises.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
from arguments import count
from local_server import serving
from numpy.typing import NDArray

from model_export.calibration import Answers, fit_coverage, fit_temperature
from model_export.cli import main as resnet_export
from model_export.images import ImageSet, Labelled, labelled, open_images
from model_export.model_file import read_model
from model_export.pixels import BATCH, batches
from service.calibration import Calibration, parse_calibration
from service.contract import PROBABILITIES, ModelContract, wilson_lower_bound
from service.engine.onnx import load_engine
from service.models.files import builtin_file
from service.postprocess.label_sets import label_set

_FIT_SHARE = 0.8  # of the calibrating half; the rest is what `calibrate` itself tests on


class Found(NamedTuple):
    """Of one level: how many sets have the right label, of how many, and their mean size."""

    level: float
    hits: int
    images: int
    labels: float

    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95 % interval of the share of sets with the right label."""
        low = wilson_lower_bound(self.hits, self.images)
        return low, 1 - wilson_lower_bound(self.images - self.hits, self.images)


def calibrated_copy(
    file: Path, images: ImageSet, rows: list[Labelled], contract: ModelContract, folder: Path
) -> Path:
    """Calibrate a copy of the file on these images; returns its path."""
    copy, archive = folder / "calibrated.onnx", folder / "calibrating.tar"
    shutil.copyfile(file, copy)
    with tarfile.open(archive, "w") as tar:
        for number, row in enumerate(rows):
            data = images.read(row.name)
            member = tarfile.TarInfo(f"{contract.labels[row.index].id}/{number}.jpg")
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    if resnet_export(
        ["calibrate", str(copy), str(archive), "--fit-share", str(_FIT_SHARE), "--provider", "cpu"]
    ):
        sys.exit(1)
    return copy


def answers(
    file: Path, images: ImageSet, rows: list[Labelled], contract: ModelContract
) -> NDArray[np.float32]:
    """Return the file's probabilities [N, C] for all images."""
    engine = load_engine(file, provider="cpu")
    engine.prepare((BATCH,))
    names = [row.name for row in rows]
    found = [
        engine.run([*batch], (PROBABILITIES,))[PROBABILITIES]
        for batch in batches(images, names, contract.preprocessing, "all images")
    ]
    engine.close()
    return np.concatenate(found)


def covered(
    calibration: Calibration, probabilities: NDArray[np.float32], truth: NDArray[np.int64]
) -> list[Found]:
    """Count the service's sets with the right label, at each level."""
    found = []
    for level in calibration.coverage:
        sets = [
            [index for index, _ in label_set(row, calibration.temperature, level.threshold)]
            for row in probabilities
        ]
        hits = sum(int(right) in labels for labels, right in zip(sets, truth, strict=True))
        mean = sum(map(len, sets)) / len(sets)
        found.append(Found(level.level, hits, len(sets), mean))
    return found


def same_over_http(
    file: Path,
    images: ImageSet,
    rows: list[Labelled],
    probabilities: NDArray[np.float32],
    calibration: Calibration,
) -> int:
    """Count the answers of a real server, at each level, whose set is another one than here."""
    command = ["resnet-serve", "serve", "--models", str(file), "--provider", "cpu"]
    differ = 0
    with serving("coverage", command) as server, httpx.Client(base_url=server.url) as client:
        for row, values in zip(rows, probabilities, strict=True):
            data = images.read(row.name)
            for level in calibration.coverage:
                answer = client.post(f"/v1/classify?coverage={level.level}", content=data)
                answer.raise_for_status()
                (result,) = answer.json()["results"]
                here = label_set(values, calibration.temperature, level.threshold)
                shown = [label["index"] for label in result["labels"]]
                differ += shown != [index for index, _ in here]
    return differ


def repeated(
    everything: Answers, repeats: int, random: np.random.Generator
) -> dict[float, list[float]]:
    """Return the coverage in each of many random halves, by level; calibrated on the other half."""
    found: dict[float, list[float]] = {}
    for _ in range(repeats):
        order, half = random.permutation(len(everything)), len(everything) // 2
        fit = round(half * _FIT_SHARE) // 2
        temperature = fit_temperature(everything.part(order[:fit]))
        covering, test = everything.part(order[fit : 2 * fit]), everything.part(order[half:])
        for level in fit_coverage(covering, test, temperature):
            found.setdefault(level.level, []).append(level.measured)
    return found


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("labelled", type=Path, help="folder or tar of labelled images")
    parser.add_argument("--file", type=Path, default=builtin_file().path, help="model file")
    parser.add_argument("--repeats", type=count, default=200, help="random halves")
    parser.add_argument("--over-http", type=count, default=200, help="images for a real server")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Measure and print a table in Markdown."""
    asked = arguments()
    random = np.random.default_rng(asked.seed)
    _, contract = read_model(asked.file)
    with open_images(asked.labelled) as images, tempfile.TemporaryDirectory() as folder:
        rows = labelled(images, contract.labels, asked.labelled)
        order = random.permutation(len(rows))
        rows = [rows[index] for index in order]
        half = len(rows) // 2
        copy = calibrated_copy(asked.file, images, rows[:half], contract, Path(folder))
        model, _ = read_model(copy)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        calibration = parse_calibration(metadata, contract, file=str(copy))
        assert calibration is not None  # noqa: S101 - it was just written
        probabilities = answers(copy, images, rows, contract)
        truth = np.array([row.index for row in rows], np.int64)
        found = covered(calibration, probabilities[half:], truth[half:])
        some = slice(half, half + asked.over_http)
        differ = same_over_http(copy, images, rows[some], probabilities[some], calibration)
    halves = repeated(Answers(truth, probabilities, None), asked.repeats, random)
    print(f"\nsets over HTTP that differ from those counted: {differ} of "
          f"{asked.over_http * len(calibration.coverage)}\n")  # fmt: skip
    print(f"| asked | covered of {found[0].images} | 95 % interval | labels per image | mean of "
          f"{asked.repeats} halves |\n|--:|--:|--:|--:|--:|")  # fmt: skip
    for one in found:
        low, high = one.interval()
        again = halves[one.level]
        error = np.std(again, ddof=1) / np.sqrt(len(again)) if len(again) > 1 else np.nan
        print(f"| {one.level:g} | {one.hits / one.images:.4f} | {low:.4f} to {high:.4f} | "
              f"{one.labels:.1f} | {np.mean(again):.4f} +- {error:.4f} |")  # fmt: skip


if __name__ == "__main__":
    main()

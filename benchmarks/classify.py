"""`resnet-serve classify` in process, against what the machine can do.

python benchmarks/classify.py IMAGES [--images N] [--rounds N]

In each round, `resnet-serve bench --limits` measures decode + model in one process in its layouts,
and `resnet-serve classify` labels the images, with all of its time counted: starting, opening the
model, reading, writing. The limit is the best layout. Prints the ratio of the medians, and how much
of the CPUs other programs had meanwhile: on a busy machine it says little. So the CPU time of an
image is compared, too, with that of loops that decode and run batches of eight.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from arguments import count

from service.bench.pipeline import load_pipeline
from service.classify.sources import items_of
from service.cpus import cpu_count
from service.engine.base import probabilities
from service.models.files import builtin_file

_PROGRAM = str(Path(sys.executable).with_name("resnet-serve"))
_AS_LIMIT = 200  # images that the limit is measured with
_IN_LOOPS, _BATCH = 2000, 8


def limits_of(images: Path) -> dict[str, float]:
    """Measure each layout of decode + model once; return its images per second."""
    command = [
        _PROGRAM, "bench", "--limits", "--repeats", "1", "--images", str(images),
        "--image-count", str(_AS_LIMIT), "--json", "-",
    ]  # fmt: skip
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    rows = json.loads(ended.stdout)["limits"]["pipeline"]
    return {f"{row['name']}, {row['options']}": row["images_per_s"] for row in rows}


@dataclass(frozen=True)
class Run:
    """What a run of `classify` took."""

    images_per_s: float
    cpu_ms: float
    """Of all CPUs together, for an image."""
    others: float
    """The share of the CPUs that other programs had."""


def classify(images: Path, number: int) -> Run:
    """Label all images."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "labels.jsonl"
        psutil.cpu_percent()  # from here on
        started, children = time.perf_counter(), _children_s()
        subprocess.run(
            [_PROGRAM, "classify", str(images), "--top-k", "5", "--output", str(output)], check=True
        )
        seconds, own_s = time.perf_counter() - started, _children_s() - children
        busy = psutil.cpu_percent() / 100
        with output.open() as rows:
            labelled = sum("labels" in json.loads(row) for row in rows)
    if labelled != number:
        raise SystemExit(f"{labelled} of {number} images have labels")
    others = busy - own_s / seconds / (psutil.cpu_count() or 1)
    return Run(number / seconds, own_s / number * 1000, max(0.0, others))


def loops_cpu_ms(images: Path) -> float:
    """Decode and run the images in batches, on a thread for each core; return as `cpu_ms`."""
    contents = [path.read_bytes() for path in sorted(images.iterdir())[:_IN_LOOPS]]
    pipeline, threads = load_pipeline(builtin_file().path, threads=1), cpu_count()

    def loop(thread: int) -> None:
        for start in range(thread * _BATCH, len(contents), threads * _BATCH):
            pixels = [pipeline.decode(each) for each in contents[start : start + _BATCH]]
            probabilities(pipeline.engine, pixels)

    begun = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(loop, range(threads)))
    return (time.process_time() - begun) / len(contents) * 1000


def _children_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def extracted(archive: Path, number: int, folder: Path) -> Path:
    """Return a folder with the first images of a tar, or of a folder."""
    for index, item in enumerate(items_of([str(archive)])):
        if index == number:
            break
        content = item.read()
        if isinstance(content, bytes):
            (folder / f"{index:06}.jpg").write_bytes(content)
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="IMAGES", help="folder or tar")
    parser.add_argument("--images", type=count, default=10_000)
    parser.add_argument("--rounds", type=count, default=3)
    arguments = parser.parse_args()
    layouts: dict[str, list[float]] = {}
    runs, loops = [], []
    with tempfile.TemporaryDirectory() as folder:
        images = extracted(arguments.source, arguments.images, Path(folder))
        number = sum(1 for _ in images.iterdir())
        for _ in range(arguments.rounds):
            for name, rate in limits_of(images).items():
                layouts.setdefault(name, []).append(rate)
            loops.append(loops_cpu_ms(images))
            runs.append(run := classify(images, number))
            print(
                f"{run.images_per_s:.0f} images/s, {run.cpu_ms:.2f} ms of CPU an image (loops "
                f"{loops[-1]:.2f}), others had {run.others:.0%} of the CPUs",
                flush=True,
            )
    best, limit = max(
        ((name, statistics.median(found)) for name, found in layouts.items()),
        key=lambda pair: pair[1],
    )
    rate = statistics.median(run.images_per_s for run in runs)
    cpu_ms, loop_ms = statistics.median(run.cpu_ms for run in runs), statistics.median(loops)
    print(f"{number} images, medians of {arguments.rounds} rounds")
    print(f"limit:    {limit:.0f} images/s ({best})")
    print(f"classify: {rate:.0f} images/s, {rate / limit:.2f} of it")
    print(f"CPU:      {cpu_ms:.2f} ms an image, the loops {loop_ms:.2f}: {loop_ms / cpu_ms:.2f}")


if __name__ == "__main__":
    main()

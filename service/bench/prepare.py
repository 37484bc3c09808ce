"""Prepares what is needed before the load: the images and their right answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from service.bench.images import read_images
from service.bench.options import BenchOptions
from service.bench.progress import Progress
from service.bench.reference import Expected, from_model_file
from service.models.files import builtin_file


class Prepared(NamedTuple):
    """The images to send and their right answers; None if the server will be asked for them."""

    images: Sequence[bytes]
    expected: Sequence[Expected] | None


def prepare(options: BenchOptions, progress: Progress) -> Prepared:
    """Read the images and, with --reference local, compute answers; raises a `StartupError`."""
    progress.show("reading images")
    images = read_images(options.images, options.image_count, options.seed)
    if options.target_url is None or options.reference == "server":
        return Prepared(images, None)
    return Prepared(images, from_model_file(model_file_of(options), images, progress.show))


def model_file_of(options: BenchOptions) -> Path:
    """Return --model-file, or the built-in model's file."""
    return options.model_file or builtin_file().path

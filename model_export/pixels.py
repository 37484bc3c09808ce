"""Decodes images into batches of a model file's input, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_export.errors import ImagesError
from model_export.images import ImageSet
from model_export.progress import counted
from service.contract import Preprocessing
from service.cpus import cpu_count
from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode, prepare_decoding

EXACT = DecodePolicy(max_image_pixels=2 * (Image.MAX_IMAGE_PIXELS or 2**30), jpeg_draft_ratio=0)
"""Exact decoding, as for golden photos, for images of any size that Pillow accepts."""

BATCH = 32


def batches(
    images: ImageSet, names: Sequence[str], preprocessing: Preprocessing, title: str | None
) -> Iterator[NDArray[np.uint8]]:
    """Decode images in order; yield batches uint8 [n, H, W, 3], the last may be shorter.

    With a `title`, a bar shows the progress.

    Raises `ImagesError`, naming the image, if one can't be decoded.
    """
    prepare_decoding()

    def pixels(data: tuple[str, bytes]) -> NDArray[np.uint8]:
        try:
            return decode(data[1], preprocessing, EXACT).pixels
        except RequestError as error:
            raise ImagesError(f"{data[0]}: {error}") from error

    with counted(shown=title is not None) as bar, ThreadPoolExecutor(cpu_count()) as pool:
        task = bar.add_task(title or "", total=len(names))
        rest = iter(names)
        while some := list(islice(rest, BATCH)):
            # Read on this thread, since a tar has only one position.
            yield np.stack(list(pool.map(pixels, [(name, images.read(name)) for name in some])))
            bar.update(task, advance=len(some))

"""Measures a running service's accuracy on Tiny-ImageNet's validation images, over HTTP.

    python benchmarks/accuracy_http.py VALIDATION_TAR [--url URL] [--limit N] [--checkpoint FILE]

With `--checkpoint` (trained weights of the built-in model's architecture), the same images are also
decoded with plain Pillow and classified in PyTorch, and both results are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
from arguments import count
from numpy.typing import NDArray
from PIL import Image

from model_export.errors import ImagesError
from model_export.images import labelled, open_images
from service.contract import Label

Labelled = tuple[bytes, str]
"""An encoded image and its WordNet id."""

_CLIENTS = 16
_BATCH = 50


async def over_http(url: str, images: list[Labelled], model: str | None) -> tuple[int, int]:
    """Post each image; count those whose id is first, or among the first five."""
    gate = asyncio.Semaphore(_CLIENTS)
    query = {"top_k": "5"} | ({"model": model} if model else {})

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def ids_of(data: bytes) -> list[str]:
            async with gate:
                answer = await client.post(
                    "/v1/classify", params=query, content=data,
                    headers={"Content-Type": "image/jpeg"},
                )  # fmt: skip
            answer.raise_for_status()
            return [label["id"] for label in answer.json()["results"][0]["labels"]]

        answers = await asyncio.gather(*(ids_of(data) for data, _ in images))
    top1 = sum(ids[0] == truth for ids, (_, truth) in zip(answers, images, strict=True))
    top5 = sum(truth in ids for ids, (_, truth) in zip(answers, images, strict=True))
    return top1, top5


def trained_network(checkpoint: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the network as trained: uint8 [N, 64, 64, 3] to logits [N, C]."""
    import torch  # noqa: PLC0415 - only with --checkpoint

    from model_export.checkpoint import read_checkpoint  # noqa: PLC0415
    from model_export.loading import build_network  # noqa: PLC0415

    network = build_network("resnet50", read_checkpoint(checkpoint))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            x = (torch.from_numpy(pixels).float() / 255 - mean) / std
            answer: NDArray[np.float32] = network(x.permute(0, 3, 1, 2)).numpy()
        return answer

    return logits


def in_pytorch(checkpoint: Path, images: list[Labelled], ids: list[str]) -> tuple[int, int]:
    """Count as `over_http` does, with PyTorch and plain Pillow."""
    network, index = trained_network(checkpoint), {name: i for i, name in enumerate(ids)}
    rows, top1, top5 = iter(images), 0, 0
    while batch := list(islice(rows, _BATCH)):
        pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data, _ in batch]
        best = np.argsort(-network(np.stack(pixels)), axis=1)[:, :5]
        hits = best == np.array([[index[truth]] for _, truth in batch])
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.sum())
    return top1, top5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, metavar="validation_tar")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="slim-resnet50")
    parser.add_argument(
        "--limit", type=count, default=2000, help="use the first N rows of the annotations"
    )
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    try:
        _measure(arguments)
    except (httpx.HTTPError, ImagesError) as error:
        raise SystemExit(f"accuracy_http: error: {error}") from error


def _measure(arguments: argparse.Namespace) -> None:
    detail = httpx.get(f"{arguments.url}/v1/models/{arguments.model}").raise_for_status().json()
    labels = [Label(**label) for label in detail["labels"]]
    with open_images(arguments.archive) as archive:
        wanted = labelled(archive, labels, arguments.archive)[: arguments.limit]
        images = [(archive.read(one.name), labels[one.index].id) for one in wanted]

    def show(name: str, counts: tuple[int, int]) -> None:
        top1, top5 = (count / len(images) for count in counts)
        print(f"{name}: top-1 {top1:.4f}, top-5 {top5:.4f} on {len(images)} images")

    show("over HTTP", asyncio.run(over_http(arguments.url, images, arguments.model)))
    if arguments.checkpoint:
        ids = [label.id for label in labels]
        show("PyTorch", in_pytorch(arguments.checkpoint, images, ids))


if __name__ == "__main__":
    main()

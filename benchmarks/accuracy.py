"""Measures a model file's accuracy on Tiny-ImageNet's validation images.

    python benchmarks/accuracy.py MODEL VALIDATION_TAR [--limit N] [--write]

Images are decoded, resized and cropped as the service does it, and run through the file in ONNX
Runtime on the CPU. The archive holds `val_annotations.txt` (tab-separated: image, WordNet id, box)
and the images; a label's id in the model's contract is the WordNet id.
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from model_export.model_file import rewrite_contract
from service.contract import Accuracy, ModelContract, parse_contract
from service.engine.onnx import OnnxEngine, load_engine
from service.preprocess.decode import DecodePolicy, decode

DATA_SET = "Tiny-ImageNet validation"
_BATCH = 50
_EXACT = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)


def main() -> None:
    """Print top-1 and top-5, and keep them in the model's contract if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("archive", type=Path, metavar="validation_tar")
    parser.add_argument("--limit", type=int, help="only the first N rows of val_annotations.txt")
    parser.add_argument("--write", action="store_true", help="put the result into the contract")
    arguments = parser.parse_args()
    if arguments.write and arguments.limit is not None:
        parser.error("--write is for the whole data set, so not with --limit")

    engine = load_engine(arguments.model, provider="cpu")
    contract = parse_contract(engine.metadata, file=str(arguments.model))
    accuracy = measure(engine, contract, arguments.archive, arguments.limit)
    print(f"{contract.name}: top-1 {accuracy.top1:.4f}, top-5 {accuracy.top5:.4f}", end=" ")
    print(f"on {accuracy.images} images of {accuracy.data_set}")
    if arguments.write:
        rewrite_contract(arguments.model, contract.model_copy(update={"accuracy": accuracy}))


def measure(
    engine: OnnxEngine, contract: ModelContract, archive: Path, limit: int | None
) -> Accuracy:
    """Count the images whose label is the first, or among the first five, of the answer."""
    index = {label.id: position for position, label in enumerate(contract.labels)}
    images = top1 = top5 = 0
    rows = islice(labelled_images(archive), limit)
    while batch := list(islice(rows, _BATCH)):
        pixels = np.stack(
            [decode(data, contract.preprocessing, _EXACT).pixels for data, _ in batch]
        )
        best = np.argsort(-engine.run(pixels), axis=1)[:, :5]
        hits = best == np.array([[index[wordnet_id]] for _, wordnet_id in batch])
        images += len(batch)
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.sum())
    return Accuracy(data_set=DATA_SET, images=images, top1=top1 / images, top5=top5 / images)


def labelled_images(archive: Path) -> Iterator[tuple[bytes, str]]:
    """Give (encoded image, WordNet id) in the order of `val_annotations.txt`."""
    with tarfile.open(archive) as tar:
        files = {PurePosixPath(member.name).name: member for member in tar if member.isfile()}
        rows = _read(tar, files["val_annotations.txt"]).decode().splitlines()
        for row in rows:
            name, wordnet_id = row.split("\t")[:2]
            yield _read(tar, files[name]), wordnet_id


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()


if __name__ == "__main__":
    main()

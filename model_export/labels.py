"""The classes' ids and names, in the network's output order."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from model_export.errors import LabelsError
from model_export.options import MultiLabelOptions
from service.contract import Label, MultiLabel

IMAGENET_CLASSES = 1000
_MOST_BYTES = 2**24


def labels_for(
    classes: int, file: Path | None, trained: Sequence[str] | None = None
) -> tuple[Label, ...]:
    """Return the labels of a network with that many classes.

    They come from `file`, from training (`trained`), or are ImageNet-1k's.

    Raises `LabelsError` if they can't be read or their number differs.
    """
    if file is not None:
        labels = read_labels(file)
        if len(labels) != classes:
            raise LabelsError(
                f"{file}: has {len(labels)} labels, but the network has {classes} classes"
            )
        return labels
    if trained is not None and len(trained) == classes == len(set(trained)):
        return tuple(Label(id=name, label=name) for name in trained)
    if classes != IMAGENET_CLASSES:
        raise LabelsError(
            f"the network has {classes} classes, not ImageNet's {IMAGENET_CLASSES}; "
            "name them with --labels FILE"
        )
    return imagenet_labels()


def multi_label_of(options: MultiLabelOptions, labels: Sequence[Label]) -> MultiLabel | None:
    """Return the rule of independent labels; None if they are not. Raises `LabelsError`."""
    if not options.independent:
        return None
    said = {} if options.threshold is None else {"threshold": options.threshold}
    if options.thresholds is None:
        return MultiLabel(**said)
    file, ids = options.thresholds, {label.id for label in labels}
    try:
        rule = MultiLabel.model_validate(said | {"thresholds": json.loads(_text(file))})
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{file}: can't be read as UTF-8 text: {error}") from error
    except ValueError as error:
        raise LabelsError(
            f"{file}: must be a JSON object of label ids, each with a number from 0 to 1"
        ) from error
    if unknown := [name for name in rule.thresholds if name not in ids]:
        raise LabelsError(f"{file}: {unknown[0]} is no label's id")
    return rule


def imagenet_labels() -> tuple[Label, ...]:
    """Return ImageNet-1k's classes in torchvision's order; the ids are WordNet's."""
    data = resources.files("model_export") / "data" / "imagenet-1k-classes.json"
    return tuple(Label(**entry) for entry in json.loads(data.read_text("utf-8")))


def read_labels(file: Path) -> tuple[Label, ...]:
    """Read labels from a `.json` file or a text file with one label per line.

    JSON is a list of `{"id": ..., "label": ...}` (other keys are ignored) or of strings. A plain
    string is both id and label. Raises `LabelsError` if the file is unreadable or of another form,
    or has an empty or repeated id.
    """
    try:
        text = _text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{file}: can't be read as UTF-8 text: {error}") from error
    entries = _json_entries(text, file) if file.suffix == ".json" else text.splitlines()
    if not entries:
        raise LabelsError(f"{file}: has no labels")
    labels = tuple(_label(entry, f"{file}: entry {i}") for i, entry in enumerate(entries, start=1))
    repeated = [key for key, count in Counter(label.id for label in labels).items() if count > 1]
    if repeated:
        raise LabelsError(f"{file}: has repeated ids: {', '.join(repeated[:5])}")
    return labels


def _text(file: Path) -> str:
    # Opening a named pipe without a writer would block forever.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        os.set_blocking(stream.fileno(), True)
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:  # some devices have no end
        raise LabelsError(f"{file}: has more than {_MOST_BYTES} bytes, too many for labels")
    return content.decode("utf-8-sig")


def _json_entries(text: str, file: Path) -> list[Any]:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise LabelsError(f"{file}: is not valid JSON: {error}") from error
    if not isinstance(entries, list):
        raise LabelsError(f"{file}: must be a JSON list, not {type(entries).__name__}")
    return entries


def _label(entry: Any, where: str) -> Label:
    if isinstance(entry, dict) and {"id", "label"} <= entry.keys():
        key, name = entry["id"], entry["label"]
    else:
        key = name = entry
    if not isinstance(key, str) or not isinstance(name, str):
        raise LabelsError(f'{where} is neither a string nor {{"id": "...", "label": "..."}}')
    if not key.strip() or not name.strip():
        raise LabelsError(f"{where} is empty")
    return Label(id=key.strip(), label=name.strip())

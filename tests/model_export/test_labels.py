"""Labels are exactly the network's classes, or refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from model_export.errors import LabelsError
from model_export.labels import imagenet_labels, labels_for, read_labels
from service.contract import Label


def write(folder: Path, text: str, name: str = "labels.json") -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


def test_imagenet_labels_are_built_in():
    """In torchvision's order, with WordNet ids."""
    labels = imagenet_labels()
    assert len(labels) == len({label.id for label in labels}) == 1000
    assert labels[0] == Label(id="n01440764", label="tench")
    assert labels[999].id == "n15075141"
    assert labels_for(1000, None) == labels


def test_json_objects_give_id_and_label(tmp_path: Path):
    """Other keys are ignored, so that a data set's own class file serves."""
    file = write(tmp_path, '[{"id": "n1", "label": "cat", "synonyms": "kitty"}]')
    assert read_labels(file) == (Label(id="n1", label="cat"),)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.json", '["cat", "dog"]'),
        ("labels.txt", "cat\ndog\n"),
        ("labels.txt", "\ufeffcat\r\ndog"),
    ],
)
def test_plain_labels_are_their_own_ids(tmp_path: Path, name: str, text: str):
    """JSON strings, or a text file with one a line."""
    labels = read_labels(write(tmp_path, text, name))
    assert labels == (Label(id="cat", label="cat"), Label(id="dog", label="dog"))


def test_labels_of_one_name_may_have_different_ids(tmp_path: Path):
    """ImageNet has two cranes."""
    entries = [{"id": "n1", "label": "crane"}, {"id": "n2", "label": "crane"}]
    assert len(read_labels(write(tmp_path, json.dumps(entries)))) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.json", "[]", "has no labels"),
        ("labels.txt", "", "has no labels"),
        ("labels.json", "{", "is not valid JSON"),
        ("labels.json", '{"0": "cat"}', "must be a JSON list"),
        ("labels.json", '["cat", 3]', "entry 2 is neither"),
        ("labels.json", '[{"id": "n1"}]', "entry 1 is neither"),
        ("labels.json", '["cat", " "]', "entry 2 is empty"),
        ("labels.txt", "cat\n\ndog\n", "entry 2 is empty"),
        ("labels.txt", "cat\ndog\ncat\n", "has repeated ids: cat"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, name: str, text: str, message: str):
    """With one line that names the file and the entry."""
    file = write(tmp_path, text, name)
    with pytest.raises(LabelsError, match=message) as caught:
        read_labels(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_labels_are_refused(tmp_path: Path):
    """A missing file, and one that is not text."""
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "labels.txt", tmp_path / "missing.txt"):
        with pytest.raises(LabelsError, match="can't be read"):
            read_labels(file)


def test_wrong_number_of_labels_is_refused(tmp_path: Path):
    """Both counts are said."""
    with pytest.raises(LabelsError, match="has 2 labels, but the network has 3 classes"):
        labels_for(3, write(tmp_path, '["cat", "dog"]'))


def test_networks_of_other_classes_need_labels():
    """Numbers alone would be no answer."""
    with pytest.raises(LabelsError, match=r"200 classes.*--labels"):
        labels_for(200, None)


def test_what_is_no_file_of_labels_keeps_nobody_waiting(tmp_path: Path):
    """A pipe that nobody writes to, and a device without end."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LabelsError, match="pipe: has no labels"):
        read_labels(tmp_path / "pipe")
    with pytest.raises(LabelsError, match="has more than 16777216 bytes"):
        read_labels(Path("/dev/zero"))


def test_labels_may_come_through_a_pipe():
    """As a shell's `<(...)` has it."""
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "wb") as stream:
        stream.write(b"cat\ndog\n")
    try:
        assert [label.id for label in read_labels(Path(f"/dev/fd/{ours}"))] == ["cat", "dog"]
    finally:
        os.close(ours)

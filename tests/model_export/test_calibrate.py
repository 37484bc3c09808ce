"""`resnet-export calibrate`: from labelled images to metadata that the service answers with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from color_model import write_color_model
from images import encode
from photos import photo_folder
from PIL import Image

from model_export.cli import main
from model_export.model_file import read_model
from service.calibration import CALIBRATION_KEY, Calibration, parse_calibration
from service.contract import METADATA_KEY, Label, MultiLabel


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def calibration_of(path: Path) -> Calibration:
    found = parse_calibration(metadata(path), read_model(path)[1], file=str(path))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), images=40)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A folder of grey images, which are of no class."""
    folder = tmp_path / "noise"
    folder.mkdir()
    for seed in range(10):
        grey = np.full((8, 8, 3), 100 + 5 * seed, np.uint8)
        (folder / f"{seed}.png").write_bytes(encode(Image.fromarray(grey)))
    return folder


def test_a_file_is_calibrated_on_parts_and_nothing_else_changes(tmp_path, photos, noise, capsys):
    path = write_color_model(tmp_path / "color.onnx", extra_outputs=True)
    before = onnx.load(path)
    assert main(["calibrate", str(path), str(photos), "--outside", str(noise), "--seed", "3",
                 "--fit-share", "0.4", "--provider", "cpu"]) == 0  # fmt: skip
    found = calibration_of(path)
    split = found.split
    assert (split.seed, split.temperature, split.coverage, split.test) == (3, 24, 24, 72)
    assert found.data_set == photos.name
    assert found.coverage[-1].level == 0.96
    assert all(one.measured == 1 for one in found.coverage), "it is always right"
    assert found.embedding is not None
    assert found.embedding.outside is not None
    assert (found.embedding.outside.data_set, found.embedding.outside.images) == ("noise", 10)
    assert found.embedding.outside.auroc >= 0.9
    after = onnx.load(path)
    assert after.graph == before.graph
    assert metadata(path)[METADATA_KEY] == before.metadata_props[0].value
    out = capsys.readouterr().out
    assert "24 images for the temperature, 24 for coverage, 72 to test; seed 3" in out
    assert "AUROC" in out


def test_the_same_seed_gives_the_same_calibration_and_replaces_the_old(tmp_path, photos):
    path = write_color_model(tmp_path / "color.onnx", extra_outputs=True)
    texts = []
    for seed in (1, 1, 2):
        assert main(["calibrate", str(path), str(photos), "--seed", str(seed)]) == 0
        texts.append(metadata(path)[CALIBRATION_KEY])
    assert texts[0] == texts[1] != texts[2]
    assert [entry.key for entry in onnx.load(path).metadata_props].count(CALIBRATION_KEY) == 1


def test_describe_shows_what_was_measured(tmp_path, photos, capsys):
    path = write_color_model(tmp_path / "color.onnx", extra_outputs=False)
    assert main(["calibrate", str(path), str(photos)]) == 0
    capsys.readouterr()
    assert main(["describe", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["calibration"]
    assert facts["embedding"] is None, "the file has no such output"
    assert facts["split"]["test"] == 60
    assert main(["describe", str(path)]) == 0
    assert "temperature" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "changes", "status", "said"),
    [
        (("--outside", "{photos}"), {}, 2, "has no embedding"),
        (("--fit-share", "1"), {}, 2, "between 0 and 1"),
        (("--fit-share", "0.2"), {}, 1, "120 images are too few: its parts would have 12, 12, 96"),
        ((), {"multi_label": MultiLabel()}, 2, "its labels are independent"),
        ((), {"labels": tuple(Label(id=n, label=n) for n in "abc")}, 1, "are of no class"),
    ],
)
def test_what_can_not_be_calibrated_is_one_line_and_changes_nothing(
    tmp_path, photos, capsys, more, changes, status, said
):
    path = write_color_model(tmp_path / "color.onnx", **changes)
    before = path.read_bytes()
    arguments = [text.format(photos=photos) for text in more]
    assert main(["calibrate", str(path), str(photos), *arguments]) == status
    assert said in capsys.readouterr().err
    assert path.read_bytes() == before


def test_missing_images_from_outside_are_told_before_anything_is_measured(tmp_path, photos, capsys):
    path = write_color_model(tmp_path / "color.onnx", extra_outputs=True)
    assert main(["calibrate", str(path), str(photos), "--outside", str(tmp_path / "no")]) == 1
    assert "no such file" in capsys.readouterr().err

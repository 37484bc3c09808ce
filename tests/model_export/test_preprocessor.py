"""Configurations of timm and Hugging Face become what a contract says of preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_export.errors import PreprocessorError
from model_export.preprocessor import read_preprocessor
from service.contract import Preprocessing

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


def written(folder: Path, fields: object) -> Path:
    file = folder / "config.json"
    file.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return file


def facts(found: Preprocessing) -> dict[str, Any]:
    return {"fit": found.fit, "resize": found.resize, "crop": found.crop,
            "interpolation": found.interpolation, "offset": found.offset}  # fmt: skip


def timm(**config: Any) -> dict[str, Any]:
    """As on the Hub, with keys that say nothing of pixels."""
    others = {"url": "", "tag": "a1_in1k", "custom_load": False, "num_classes": 1000,
              "pool_size": [7, 7], "first_conv": "conv1", "classifier": "fc"}  # fmt: skip
    return {"architecture": "resnet50", "num_features": 2048, "pretrained_cfg": others | config}


CENTER = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95,
          "crop_mode": "center", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "fixed", "expected"),
    [
        (CENTER, None, {"fit": "short_side", "resize": 235, "crop": 224}),
        (CENTER | {"crop_mode": "squash"}, 224, {"fit": "squash", "resize": 235, "crop": 224}),
        (CENTER | {"crop_mode": "border"}, None, {"fit": "contain", "resize": 235, "crop": 224}),
        (
            CENTER | {"input_size": [3, 192, 256]},
            (192, 256),
            {"fit": "cover", "resize": (202, 269), "crop": (192, 256)},
        ),
        (
            CENTER | {"test_input_size": [3, 288, 288], "test_crop_pct": 1.0},
            288,
            {"fit": "short_side", "resize": 288, "crop": 288},
        ),
        ({"num_classes": 10, "crop_pct": None}, None, {"resize": 256, "crop": 224}),
    ],
)  # fmt: skip
def test_timm_fractions_are_resolved_to_sizes(tmp_path, config, fixed, expected):
    """A network that only takes the test size gets that one's fraction."""
    for fields in (timm(**config), timm(**config)["pretrained_cfg"]):
        found = read_preprocessor(written(tmp_path, fields), fixed)
        assert facts(found) == facts(found) | expected | {
            "interpolation": "bicubic", "offset": "even",
        }  # fmt: skip


def test_timm_border_is_filled_with_the_mean(tmp_path):
    found = read_preprocessor(written(tmp_path, timm(**(CENTER | {"crop_mode": "border"}))))
    assert found.fill == (128, 102, 76)
    assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def processor(kind: str, **fields: Any) -> dict[str, Any]:
    return {"image_processor_type": kind, "do_convert_rgb": None, "data_format": "channels_first",
            "device": None, **fields}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            processor("ViTImageProcessor", size={"height": 96, "width": 128}),
            {"fit": "squash", "resize": (96, 128), "crop": (96, 128), "interpolation": "bilinear"},
        ),
        (
            {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 3},
            {"fit": "squash", "resize": 224, "interpolation": "bicubic"},
        ),
        (
            processor("ConvNextImageProcessorFast", size={"shortest_edge": 224}, resample=3,
                      crop_pct=0.875),
            {"fit": "short_side", "resize": 256, "crop": 224, "interpolation": "bicubic"},
        ),
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "resample": 2},
            {"fit": "short_side", "resize": 256, "crop": 224},
        ),
        (
            processor("ConvNextImageProcessor", size={"shortest_edge": 384}, resample=2),
            {"fit": "squash", "resize": 384, "crop": 384},
        ),
        (
            processor("EfficientNetImageProcessor", resample=0),
            {"fit": "squash", "resize": 346, "interpolation": "nearest"},
        ),
        (
            processor("BitImageProcessor"),
            {"fit": "short_side", "resize": 224, "crop": 224, "interpolation": "bicubic"},
        ),
        (
            processor("CLIPImageProcessor", size=256, crop_size={"height": 224, "width": 200}),
            {"fit": "short_side", "resize": 256, "crop": (224, 200)},
        ),
        (
            processor("DeiTImageProcessor"),
            {"fit": "squash", "resize": 256, "crop": 224, "interpolation": "bicubic"},
        ),
    ],
)  # fmt: skip
def test_processors_of_hugging_face_are_known_with_their_defaults(tmp_path, fields, expected):
    found = read_preprocessor(written(tmp_path, fields))
    assert facts(found) == facts(found) | expected | {"offset": "down"}


@pytest.mark.parametrize(
    ("fields", "scale", "shift"),
    [
        (processor("ViTImageProcessor"), 1 / 127.5, -1),
        (processor("ViTImageProcessor", do_rescale=False, do_normalize=False), 1, 0),
        (processor("ViTImageProcessor", do_normalize=False), 1 / 255, 0),
        (processor("CLIPImageProcessor", image_std=[1, 1, 1]), 1 / 255, -CLIP_MEAN[0]),
        (
            processor("EfficientNetImageProcessor", resample=3, include_top=False,
                      rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False),
            1 / 127.5, -1,
        ),
        (processor("EfficientNetImageProcessor", resample=3), 4 / 255, -2),
        (processor("EfficientNetImageProcessor", resample=3, do_normalize=False), 2 / 255, 0),
    ],
)  # fmt: skip
def test_scale_and_shift_are_all_that_a_processor_does_to_values(tmp_path, fields, scale, shift):
    """EfficientNet's divides by the deviation twice for classifiers (`include_top`)."""
    found = read_preprocessor(written(tmp_path, fields))
    for value in (0, 100, 255):
        got = (value / 255 - found.mean[0]) / found.std[0]
        assert got == pytest.approx(value * scale + shift)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("{", "is not valid JSON"),
        ([], "is not a JSON object"),
        ({"a": 1}, "is neither a preprocessor_config.json"),
        (timm(crop_pct=1.2), "crop_pct is 1.2: must be"),
        (timm(**CENTER, zoom=2), "unknown keys: zoom"),
        (timm(**CENTER) | {"mean": [0, 0, 0]}, "has mean beside pretrained_cfg"),
        (timm(input_size=[1, 28, 28]), "input_size is"),
        (timm(**CENTER, crop_border_pixels=4), "crop_border_pixels is 4"),
        (processor("SamImageProcessor"), "SamImageProcessor, which is not known"),
        (processor("ViTImageProcessor", do_thumbnail=True), "unknown keys: do_thumbnail"),
        (processor("ViTImageProcessor", crop_pct=0.9), "unknown keys: crop_pct"),
        (processor("ViTImageProcessor", feature_extractor_type="CLIPFeatureExtractor"), "several"),
        (processor("ViTImageProcessor", do_resize=False), "do_resize is false"),
        (processor("ViTImageProcessor", do_pad=True), "do_pad is True"),
        (processor("ViTImageProcessor", size={"longest_edge": 5}), "size has longest_edge"),
        (processor("ViTImageProcessor", do_center_crop=True), "crop_size is missing"),
        (processor("CLIPImageProcessor", do_center_crop=False), "do_center_crop is false"),
        (processor("CLIPImageProcessor", crop_size=300), "crop (300) is larger than resize (224)"),
        (processor("ConvNextImageProcessor"), "does not say resample"),
        (processor("ConvNextImageProcessor", resample=2, do_center_crop=True), "both say"),
        (processor("ConvNextImageProcessor", resample=2, size={"height": 2, "width": 2}), "edge"),
        (processor("BitImageProcessor", resample=9), "resample is 9"),
        (processor("BitImageProcessor", image_std=[0, 1, 1]), "image_std is"),
    ],
)  # fmt: skip
def test_what_is_unknown_or_contradicts_is_refused_by_name(tmp_path, fields, said):
    with pytest.raises(PreprocessorError) as caught:
        read_preprocessor(written(tmp_path, fields))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'config.json'}: ")
    assert said in message
    assert "\n" not in message


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path):
    with pytest.raises(PreprocessorError, match=r"224 x 224 .*, but the network takes 96 x 128"):
        read_preprocessor(written(tmp_path, timm(**CENTER)), (96, 128))


def test_a_missing_or_endless_file_is_refused(tmp_path):
    with pytest.raises(PreprocessorError, match="no such file"):
        read_preprocessor(tmp_path / "config.json")
    with pytest.raises(PreprocessorError, match="too many"):
        read_preprocessor(written(tmp_path, " " * (2**20 + 1)))

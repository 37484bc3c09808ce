"""The calibration in a model file's metadata: what is read, and what is refused in a line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from calibrated import calibration, embedding
from color_model import color_contract

from service.calibration import CALIBRATION_KEY, MOST_BYTES, encoded, parse_calibration
from service.contract import MultiLabel
from service.errors import CalibrationError

NAN = encoded(np.full(3, np.nan, np.float32))


def parsed(text: str, **changes: Any):
    return parse_calibration({CALIBRATION_KEY: text}, color_contract(**changes), file="m.onnx")


def test_a_file_without_one_has_none():
    assert parse_calibration({}, color_contract(), file="m.onnx") is None


def test_arrays_are_read_as_they_were_written():
    found = parsed(json.dumps(calibration()))
    assert found is not None
    assert found.embedding is not None
    mean, directions = found.embedding.arrays
    np.testing.assert_array_equal(mean, [128, 128, 128])
    np.testing.assert_array_equal(directions, [[1, 0, 0]])
    assert "mean" not in found.facts()["embedding"]
    assert json.loads(found.model_dump_json()) == calibration()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its calibration is invalid"),
        ("{", "its calibration is invalid"),
        ("[]", "its calibration is invalid"),
        (" " * (MOST_BYTES + 1), f"{MOST_BYTES} are allowed"),
        (calibration(version=2), "version: "),
        (calibration(more=1), "more: "),
        (calibration(temperature=0), "temperature: "),
        (calibration(temperature=float("nan")), "temperature: "),
        (calibration(coverage=[]), "coverage: "),
        (calibration(coverage=calibration()["coverage"][::-1]), "have to ascend"),
        (calibration(classes=4), "is for 4 classes"),
        (calibration(embedding=embedding(mean="%")), "mean is not base64"),
        (calibration(embedding=embedding(mean="AAAAAAA=")), "mean is not whole float32 values"),
        (calibration(embedding=embedding(mean="")), "directions has 3 values, not 1 x 0"),
        (calibration(embedding=embedding(variances=[1, 1])), "directions has 3 values, not 2 x 3"),
        (calibration(embedding=embedding(variances=[0])), "embedding.variances.0: "),
        (calibration(embedding=embedding(directions=NAN)), "not finite"),
    ],
)
def test_a_broken_one_is_refused_in_a_line(text, said):
    with pytest.raises(CalibrationError) as caught:
        parsed(text if isinstance(text, str) else json.dumps(text))
    message = str(caught.value)
    assert message.startswith("m.onnx: its calibration ")
    assert said in message
    assert "\n" not in message


def test_independent_labels_have_none():
    with pytest.raises(CalibrationError, match="of which one is right"):
        parsed(json.dumps(calibration()), multi_label=MultiLabel())

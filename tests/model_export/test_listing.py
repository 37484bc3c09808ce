"""The table of architectures."""

from __future__ import annotations

import json

import pytest

from model_export.architectures import ARCHITECTURES
from model_export.cli import main
from model_export.listing import row_of


@pytest.mark.parametrize(
    ("name", "parameters", "giga", "top1"),
    [
        ("resnet50", 25_557_032, 4.089, 80.858),
        ("resnext50_32x4d", 25_028_904, 4.230, 81.198),
        ("wide_resnet50_2", 68_883_240, 11.398, 81.602),
        ("densenet121", 7_978_856, 2.834, 74.434),
        ("mobilenet_v2", 3_504_872, 0.301, 72.154),
        ("mobilenet_v3_large", 5_483_032, 0.217, 75.274),
        ("alexnet", 61_100_840, 0.714, 56.522),
    ],
)
def test_rows_are_what_torchvision_documents(name: str, parameters: int, giga: float, top1: float):
    row = row_of(name)
    assert (row.parameters, row.top1, row.size_bytes) == (parameters, top1, 4 * parameters)
    assert row.multiply_adds / 1e9 == pytest.approx(giga, abs=0.001)


def test_all_architectures_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Each is built for it, at full size but without memory."""
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["architecture"] for row in rows] == list(ARCHITECTURES)
    others = {row["architecture"]: row["input_size"] for row in rows if row["input_size"] != 224}
    assert others == {"botnet26t_256": 256, "botnet50ts_256": 256}
    some = {name: ARCHITECTURES[name] for name in ("resnet18", "cbam_resnet50")}
    monkeypatch.setattr("model_export.listing.ARCHITECTURES", some)
    assert main(["list"]) == 0
    assert "cbam_resnet50" in capsys.readouterr().out

"""Damaged files of parameters are told in one line, whatever their reader makes of them."""

from __future__ import annotations

import argparse
import errno
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import assert_read_or_refused, damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from model_export.checkpoint import TRAINED, read_checkpoint
from model_export.cli import main
from model_export.damage import told_as_damage
from model_export.errors import WeightsError
from model_export.training.state import LAST, RunFolder

STATE = {
    "conv1.weight": torch.arange(108.0).reshape(4, 3, 3, 3),
    "fc.weight": torch.ones(2, 4, dtype=torch.float16),
    "fc.bias": torch.zeros(2),
    "steps": torch.tensor(3),
}
ABOUT = {"architecture": "resnet18", "stem": "small", "labels": ["a", "b"]}
TRAINERS = {"state_dict": STATE, "args": argparse.Namespace(lr=0.1), "best": np.float64(3)}


def saved(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


FILES = {
    "zip": saved(STATE),
    "zip with objects": saved(TRAINERS | {TRAINED: ABOUT}),
    "legacy": saved(STATE, _use_new_zipfile_serialization=False),
    "legacy with objects": saved(TRAINERS, _use_new_zipfile_serialization=False),
    "legacy text": saved(STATE, _use_new_zipfile_serialization=False, pickle_protocol=0),
    "safetensors": save(STATE),
    "pickle": pickle.dumps({"a": [1.0]}),
}


@settings(max_examples=300)
@given(content=st.sampled_from(sorted(FILES)).flatmap(lambda kind: damaged(FILES[kind])))
def test_no_other_error_than_the_exporters_own_comes_of_a_damaged_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
):
    """It is read or refused, in one line that can be printed."""
    path = tmp_path_factory.mktemp("damaged") / "net.pth"
    assert_read_or_refused(read_checkpoint, path, content, WeightsError)


@pytest.mark.parametrize("kind", ["zip", "zip with objects", "legacy", "safetensors"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
def test_a_file_that_is_cut_off_is_called_damaged(
    tmp_path: Path, kind: str, part: float, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "net.pth"
    path.write_bytes(FILES[kind][: int(part * len(FILES[kind]))])
    status = main(["export", "resnet18", "--weights", str(path), "--output", "net.onnx"])
    _, err = capsys.readouterr()
    assert status == 1
    *_, last = err.splitlines()
    assert last.startswith(f"resnet-export: error: {path}: is ")
    assert "damaged" in last
    assert "Traceback" not in err


def test_values_that_are_not_as_they_were_written_are_found(tmp_path: Path):
    """By the zip file's checksums, which PyTorch's loader does not compare."""
    content = saved({"fc.weight": torch.full((8,), 1.5)})
    assert content.count(bytes.fromhex("0000c03f") * 8) == 1
    path = tmp_path / "net.pth"
    path.write_bytes(content.replace(bytes.fromhex("0000c03f") * 8, bytes(32)))
    with pytest.raises(WeightsError, match="is damaged: Bad CRC-32"):
        read_checkpoint(path)


def test_files_without_checksums_are_read(tmp_path: Path):
    """PyTorch can be told to make none."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "net.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / "net.pth").state.keys() == STATE.keys()


@pytest.mark.parametrize(
    ("odd", "place"),
    [({"stem": [1]}, "stem"), ({"labels": 3}, "labels"), ({"architecture": 5}, "architecture"),
     ({"preprocessing": {"crop": "x"}}, "preprocessing.resize")],
)  # fmt: skip
def test_what_train_said_of_its_network_is_held_to_its_form(tmp_path: Path, odd: dict, place: str):
    torch.save({"model": STATE, TRAINED: ABOUT | odd}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=f"its entry {TRAINED}.{place} can't be read"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_parameters_name_that_cannot_be_printed_is_damage(tmp_path: Path):
    torch.save({"fc\n.weight": torch.ones(2)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"is damaged: a parameter is named 'fc\\n.weight'"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "needs more memory than there is, or is damaged"),
        (RuntimeError("can't allocate memory: you tried"), "needs more memory than there is, or"),
        (OSError(errno.EINVAL, "Invalid argument"), "is damaged: its parts are not where"),
        (OSError(errno.EIO, "Input/output error"), "can't be read: Input/output error"),
        (EOFError(), "is damaged: it ends too early"),
        (ValueError("x\ny"), "is damaged: x$"),
        (KeyError("x"), "is damaged$"),
    ],
)
def test_what_readers_raise_becomes_one_readable_line(error: Exception, told: str):
    with (
        pytest.raises(WeightsError, match=f"net.pth: {told}") as caught,
        told_as_damage(Path("net.pth")),
    ):
        raise error
    assert str(caught.value).isprintable()


def test_files_that_may_not_be_read_are_no_damaged_ones():
    """The system's error names the file, and passes as it is."""
    denied = PermissionError(errno.EACCES, "Permission denied", "net.pth")
    with pytest.raises(PermissionError), told_as_damage(Path("net.pth")):
        raise denied


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_damaged_state_of_a_run_is_told(tmp_path: Path, kind: str):
    (tmp_path / LAST).write_bytes(FILES[kind][: len(FILES[kind]) // 2])
    with pytest.raises(WeightsError, match=f"{LAST}: is damaged"):
        RunFolder(tmp_path).open(resume=True)

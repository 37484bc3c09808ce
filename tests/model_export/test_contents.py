"""What a file is, is told by its content."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import save

from model_export.contents import Content, content_of

STATE = {"fc.weight": torch.ones(2, 3)}


def content(path: Path, written: bytes) -> Content:
    path.write_bytes(written)
    return content_of(path)


def saved(**options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(STATE, stream, **options)
    return stream.getvalue()


def program(kind: str) -> bytes:
    """As PyTorch writes a network with its code; its warnings are about itself."""
    stream, network, example = io.BytesIO(), torch.nn.Linear(2, 2), torch.ones(1, 2)
    with warnings.catch_warnings(action="ignore"):
        if kind == "TorchScript":
            torch.jit.save(torch.jit.trace(network, example), stream)
        else:
            torch.export.save(torch.export.export(network, (example,)), stream)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("net.pth"))
    return stream.getvalue()


def arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(2))
    return stream.getvalue()


def graph(**facts: object) -> bytes:
    nothing = helper.make_graph([], "nothing", [], [])
    return helper.make_model(nothing, **facts).SerializeToString()


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        (save(STATE), "safetensors"),
        (save(STATE)[:-3], "safetensors"),
        (saved(), "torch"),
        *[(saved(pickle_protocol=protocol, _use_new_zipfile_serialization=False), "torch")
          for protocol in range(6)],
        (graph(), "onnx"),
        (graph(producer_name="pytorch", producer_version="2", ir_version=8), "onnx"),
        (b"\x93\x07\xff\xfe", "unknown"),
        (b"\x80", "unknown"),
    ],
)  # fmt: skip
def test_the_kinds_that_are_read_are_known(tmp_path: Path, written: bytes, kind: str):
    """By what libraries write themselves, with or without its end."""
    assert content(tmp_path / "file", written).kind == kind


@pytest.mark.parametrize("end", [0.3, 0.9])
def test_onnx_is_known_by_its_beginning(tmp_path: Path, end: float):
    """A whole file is not needed."""
    weights = onnx.numpy_helper.from_array(np.ones(1000), "w")
    model = helper.make_model(helper.make_graph([], "g", [], [], [weights]), producer_name="x")
    written = model.SerializeToString()
    assert content(tmp_path / "file", written[: int(len(written) * end)]).kind == "onnx"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4\n", "`git lfs pull` fetches"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html>\n<html>", "is a web page, perhaps a failed download"),
        (b"<?xml version='1.0'?><Error><Code>403</Code></Error>", "is XML, perhaps a failed"),
        (b'{"error":\n"not found"}', 'is JSON, perhaps .* download: {"error": "not found"}'),
        (b'{"metadata": {}, "weight_map": {}}', "is an index of parameters in several files"),
        (b'{"irVersion": "8", "graph": {}}', "is ONNX as text"),
        (b"404: Not Found", "is text, perhaps a failed download: 404: Not Found"),
        (b"word " * 2000, r"is text, .*: (word ){12}\.\.\."),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "is an HDF5 file, .* save the network as ONNX"),
        (b"\x08\x01\x12\x85\x80\x02\x0a\x10" + b"x" * 99, "is a TensorFlow file"),
        (b"\x0a\x16\x0a\x05input\x12\x0bPlaceholder*\x00", "is a TensorFlow file"),
        (gzip.compress(saved()), "is compressed by gzip; unpack it first"),
        (tarred(), "is a tar archive; unpack it first"),
        (zipped("net/metadata.json", "net/config.json"), "is a Keras file"),
        (zipped("a/net.pth", "b"), "torch.save did not write, with a/net.pth, b"),
        (b"PK\x05\x06" + bytes(18), "is a zip file that torch.save did not write$"),
        (saved()[:-30], "is a damaged zip file: the list of its contents, at its end"),
        (saved().replace(b"\1\2" + bytes(4), b"\1\2" + bytes(2) + b"\xff\0"), "is a damaged zip"),
        (saved().replace(b"version", b"versio\xff"), "is a damaged zip file"),
        (arrays(), "is a NumPy npz file"),
        (bytes(9000), "begins with 4096 zero bytes"),
        *[(pickle.dumps({"a": 1}, protocol), f"is a bare pickle \\(protocol {told}\\), and reading")
          for protocol, told in enumerate(["0 or 1", "0 or 1", "2", "3", "4", "5"])],
    ],
)  # fmt: skip
def test_other_files_are_named_with_the_way_out(tmp_path: Path, written: bytes, told: str):
    """In one line."""
    found = content(tmp_path / "file", written)
    assert found.kind in {"text", "other"}
    assert re.search(told, found.told)
    assert "\n" not in found.told


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_programs_are_no_parameters(tmp_path: Path, kind: str):
    found = content(tmp_path / "file", program(kind))
    assert found.kind == "other"
    assert kind in found.told
    assert found.told.endswith("save the network's state_dict() alone")

"""What is generated from the .proto files is what is committed, and is Triton's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as triton_config
from tritonclient.grpc import service_pb2 as triton_service

from service.grpc import grpc_service_pb2, model_config_pb2

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["grpc_service_pb2.py", "model_config_pb2.py"])
def test_generating_gives_what_is_committed(tmp_path, name):
    script = str(ROOT / "scripts" / "generate-protos")
    subprocess.run([script, sys.executable, str(tmp_path)], check=True, timeout=90)
    assert (tmp_path / name).read_text() == (ROOT / "service" / "grpc" / name).read_text()


@pytest.mark.parametrize(
    ("own", "triton"), [(grpc_service_pb2, triton_service), (model_config_pb2, triton_config)]
)
def test_the_definition_is_tritons_byte_for_byte(own, triton):
    """Or both could not be loaded in one process, as here."""
    assert own.DESCRIPTOR.name == triton.DESCRIPTOR.name
    assert own.DESCRIPTOR.serialized_pb == triton.DESCRIPTOR.serialized_pb

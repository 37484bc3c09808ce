"""The protocol's messages, whose classes protobuf makes when they are imported."""

from __future__ import annotations

from typing import Any

from service.grpc import grpc_service_pb2

messages: Any = grpc_service_pb2

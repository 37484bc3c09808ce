"""The Open Inference Protocol as its clients use it: bodies of requests, and its schemas.

The schemas state the members that open_inference_rest.yaml requires, and their types; written down
from the protocol's text (https://github.com/kserve/open-inference-protocol).
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

SIDE = 8
"""Side of the colour model's input."""

PIXELS = {
    color: np.full((SIDE, SIDE, 3), value, np.uint8)
    for color, value in (("red", (220, 30, 20)), ("green", (25, 210, 40)), ("blue", (10, 40, 230)))
}


def pixels_of(*colors: str) -> np.ndarray:
    """Return a batch of images, each of one colour."""
    return np.stack([PIXELS[color] for color in colors])


def json_request(pixels: np.ndarray, **members: Any) -> dict[str, Any]:
    """Return a request whose pixels are in the JSON, flat."""
    tensor = {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(pixels.shape),
        "data": pixels.ravel().tolist(),
    }
    return {"inputs": [tensor], **members}


def image_request(*images: bytes, **members: Any) -> dict[str, Any]:
    """Return a request with encoded images as base64 in its JSON."""
    tensor = {
        "name": "images",
        "datatype": "BYTES",
        "shape": [len(images)],
        "data": [base64.b64encode(image).decode() for image in images],
        "parameters": {"content_type": "base64"},
    }
    return {"inputs": [tensor], **members}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": required | optional, "required": list(required)}


_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_SHAPE = {"type": "array", "items": {"type": "integer"}}
_TENSOR = {"name": _TEXT, "datatype": _TEXT, "shape": _SHAPE}
_DATA = {"type": "array", "items": {"type": ["array", "number", "string", "boolean"]}}
_OUTPUT = _object(_TENSOR | {"data": _DATA}, parameters={"type": "object"})

SERVER_METADATA = _object({"name": _TEXT, "version": _TEXT, "extensions": _TEXTS})
MODEL_METADATA = _object(
    {"name": _TEXT, "platform": _TEXT},
    versions=_TEXTS,
    inputs={"type": "array", "items": _object(_TENSOR)},
    outputs={"type": "array", "items": _object(_TENSOR)},
)
INFERENCE_RESPONSE = _object(
    {"model_name": _TEXT, "outputs": {"type": "array", "items": _OUTPUT}},
    model_version=_TEXT,
    id=_TEXT,
    parameters={"type": "object"},
)
ERROR = _object({"error": _TEXT})

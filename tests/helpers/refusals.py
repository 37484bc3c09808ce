"""Requests that are refused, one of each kind, with bodies of about the size of an image."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

OCTETS, JSON, FORM = (
    "application/octet-stream", "application/json", "multipart/form-data; boundary=b",
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A request and the status that it gets."""

    body: bytes
    media_type: str
    status: int


def form(*parts: bytes) -> bytes:
    pieces = [
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + part + b"\r\n"
        for part in parts
    ]
    return b"".join(pieces) + b"--b--\r\n"


def in_json(*images: bytes) -> bytes:
    return json.dumps(
        {"images": [{"data": base64.b64encode(image).decode()} for image in images]}
    ).encode()


def refusals(png: bytes, jpeg: bytes) -> dict[str, Refusal]:
    """Make a request of each kind from two good images."""
    cut_png, cut_jpeg = png[: -len(png) // 8], jpeg[: len(jpeg) // 2]
    nothing = b"no image " * (len(png) // 9)
    of_a = b'{"images": [{"data": "' + b"A" * len(png)
    return {
        "a PNG that is cut off": Refusal(cut_png, OCTETS, 422),
        "a JPEG that is cut off": Refusal(cut_jpeg, OCTETS, 422),
        "what is no image": Refusal(nothing, OCTETS, 415),
        "an empty body": Refusal(b"", OCTETS, 400),
        "a form that is cut off": Refusal(form(cut_png)[:-9], FORM, 400),
        "a form without images": Refusal(b"--b--\r\n", FORM, 400),
        "a form of broken images": Refusal(form(cut_png, cut_jpeg), FORM, 422),
        "a form of broken images and others": Refusal(form(cut_png, nothing), FORM, 422),
        "JSON that is cut off": Refusal(in_json(cut_png)[:-3], JSON, 400),
        "JSON of another shape": Refusal(of_a + b'", "x": 1}]}', JSON, 400),
        "JSON of broken images": Refusal(in_json(cut_png, nothing), JSON, 422),
        "JSON of no base64": Refusal(of_a + b'%"}]}', JSON, 422),
        "another type": Refusal(nothing, "text/html", 415),
    }

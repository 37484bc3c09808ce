"""Requests that are refused, one of each kind; tests and `refusals.py` send them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

OCTETS, JSON, FORM = (
    "application/octet-stream", "application/json", "multipart/form-data; boundary=b",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is refused: its body, type and the answer's status."""

    body: bytes
    media_type: str
    status: int
    leaves: bool = False
    """Whether the client leaves once it has sent its request."""


def refusals(png: bytes, jpeg: bytes, part: bytes | None = None) -> dict[str, Refusal]:
    """Make a request of each kind from good images, with bodies of about the size of `png`.

    Forms and JSON of several images are made of `part` where `png` is too large for that.
    """
    cut_png, cut_jpeg = png[: -len(png) // 8], jpeg[: len(jpeg) // 2]
    cut_part = cut_png if part is None else part[: -len(part) // 8]
    nothing, small_nothing = _no_image(len(png)), _no_image(len(part or png))
    of_a = b'{"images": [{"data": "' + b"A" * len(png)
    return {
        "a PNG that is cut off": Refusal(cut_png, OCTETS, 422),
        "a JPEG that is cut off": Refusal(cut_jpeg, OCTETS, 422),
        "what is no image": Refusal(nothing, OCTETS, 415),
        "an empty body": Refusal(b"", OCTETS, 400),
        "a form that is cut off": Refusal(_form(cut_png)[:-9], FORM, 400),
        "a form without images": Refusal(b"--b--\r\n", FORM, 400),
        "a form of what is no image": Refusal(_form(small_nothing, small_nothing), FORM, 422),
        "a form of broken images": Refusal(_form(cut_part, cut_jpeg), FORM, 422),
        "a form of broken images and others": Refusal(_form(cut_part, small_nothing), FORM, 422),
        "JSON that is cut off": Refusal(of_a, JSON, 400),
        "JSON of another shape": Refusal(of_a + b'", "x": 1}]}', JSON, 400),
        "JSON of broken images": Refusal(_in_json(cut_part, small_nothing), JSON, 422),
        "JSON of no base64": Refusal(of_a + b'%"}]}', JSON, 422),
        "another type": Refusal(nothing, "text/html", 415),
    }


def leaving(png: bytes, part: bytes | None = None) -> dict[str, Refusal]:
    """Make requests of clients that leave once they have sent them."""
    form = _form(part or png, part or png)
    return {
        "a client that leaves": Refusal(png, OCTETS, 0, leaves=True),
        "a client that leaves a form": Refusal(form, FORM, 0, leaves=True),
    }


def near_boundaries(size: int) -> Refusal:
    """Make a form of so many bytes that begin as its boundary does, and are none."""
    return Refusal(_form(b"\r\n--bX" * (size // 6)), FORM, 415)


def _no_image(size: int) -> bytes:
    return b"no image " * (size // 9)


def _form(*parts: bytes) -> bytes:
    pieces = [
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + part + b"\r\n"
        for part in parts
    ]
    return b"".join(pieces) + b"--b--\r\n"


def _in_json(*images: bytes) -> bytes:
    return json.dumps(
        {"images": [{"data": base64.b64encode(image).decode()} for image in images]}
    ).encode()

"""The three forms of a body: the raw image, multipart/form-data, and JSON with base64.

Each becomes a list of encoded images. Where one of several is bad already here (its encoding), its
place holds its error, so that its neighbours are served.
"""

from __future__ import annotations

import base64
import binascii
import codecs
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from service.api.multipart import (
    boundary_of,
    file_name,
    names_a_file,
    parameters_of,
    parts_of,
)
from service.api.schemas import JsonImages
from service.errors import (
    ContentEncodingError,
    InvalidBase64Error,
    MalformedJsonError,
    MalformedMultipartError,
    NoImagesError,
    RequestError,
    TooManyImagesError,
    UnsupportedMediaTypeError,
)
from service.wording import shortened, what_is_wrong


@dataclass(frozen=True, slots=True)
class PostedImage:
    """An image file, or why there is none, and the name that a form gives it."""

    content: bytes | RequestError
    name: str | None = None


FormParser = Callable[[bytes, int], list[PostedImage]]
"""Takes a body and `max_images`."""

_JSON_FORM = '{"images": [{"data": "<base64>"}]}'
_SPARE_COMMAS = 100
_MAX_TYPE_BYTES = 1000
_OPTIONS = frozenset({b"top_k", b"model", b"version"})
_PLAIN_TRANSFER = frozenset({b"", b"binary", b"8bit", b"7bit"})


def form_of(content_type: bytes | None) -> FormParser | None:
    """Choose the parser for a Content-Type; None means that the body itself is the image.

    Raises `UnsupportedMediaTypeError`, and `MalformedMultipartError` for one without a boundary.
    """
    if not content_type:
        return None
    if len(content_type) > _MAX_TYPE_BYTES:
        raise UnsupportedMediaTypeError(f"the Content-Type is longer than {_MAX_TYPE_BYTES} bytes")
    kind, parameters = parameters_of(content_type)
    if _is_image(kind):
        return None
    if kind == b"application/json":
        return parse_json
    if kind == b"multipart/form-data":
        boundary = boundary_of(parameters)
        return lambda body, max_images: parse_multipart(body, boundary, max_images)
    raise UnsupportedMediaTypeError(
        f"Content-Type {shortened(kind)!r} is not accepted; send an image as image/jpeg (any "
        "image/* or application/octet-stream), several as multipart/form-data, or base64 as "
        "application/json"
    )


def _is_image(kind: bytes) -> bool:
    """Whether a media type may stand over an image file."""
    return kind.startswith(b"image/") or kind == b"application/octet-stream"


def parse_json(body: bytes, max_images: int) -> list[PostedImage]:
    """Read `{"images": [{"data": "<base64>"}]}`."""
    # Counted before they are parsed, since millions of small items would take gigabytes. Neither
    # base64 nor the form has other commas; one for each image is spare for `data:` prefixes.
    if body.count(b",") > 2 * max_images + _SPARE_COMMAS:
        _check_count(max(body.count(b'"data"'), 1), max_images)
        raise MalformedJsonError(f"too many items; expected {_JSON_FORM}")
    try:
        # Some editors and PowerShell begin a text with a byte order mark (RFC 8259, section 8.1).
        items = JsonImages.model_validate_json(body.removeprefix(codecs.BOM_UTF8)).images
    except ValidationError as error:
        first = error.errors()[0]
        where = shortened(".".join(str(part) for part in first["loc"]))
        raise MalformedJsonError(
            f"{where + ': ' if where else ''}{what_is_wrong(first)}; expected {_JSON_FORM}"
        ) from error
    _check_count(len(items), max_images)
    return [PostedImage(_from_base64(item.data)) for item in items]


def _from_base64(data: str) -> bytes | RequestError:
    """Read base64, with line ends as MIME has them (RFC 2045), or a data: URL (RFC 2397) of it."""
    if data[:5].lower() == "data:":
        head, comma, data = data.partition(",")
        if not (comma and head.lower().endswith(";base64")):
            return InvalidBase64Error("data is a data: URL that is not in base64")
    if "\n" in data or "\r" in data:
        data = data.replace("\r", "").replace("\n", "")
    return _decoded(data)


def _decoded(data: bytes | str) -> bytes | RequestError:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        return InvalidBase64Error(f"data is not standard base64 (RFC 4648, section 4): {error}")


def parse_multipart(body: bytes, boundary: bytes, max_images: int) -> list[PostedImage]:
    """Read the file parts of a form, in memory, whatever their fields are called."""
    images: list[PostedImage] = []
    for headers, content in parts_of(body, boundary):
        kind, parameters = parameters_of(headers.get(b"content-disposition", b""))
        if kind != b"form-data":
            raise MalformedMultipartError("a part has no Content-Disposition: form-data")
        if not names_a_file(parameters):
            _check_is_image(parameters.get(b"name", b""), headers.get(b"content-type", b""))
        if len(images) == max_images:
            _check_count(max_images + 1, max_images)
        transfer = headers.get(b"content-transfer-encoding", b"").lower()
        images.append(PostedImage(_transferred(content, transfer), file_name(parameters)))
    _check_count(len(images), max_images)
    return images


def _check_is_image(field: bytes, content_type: bytes) -> None:
    """Refuse a part that names no file, unless its type is an image's.

    A type alone says nothing: many clients put one over a text field (.NET, Apache HttpClient).
    """
    if field in _OPTIONS or not _is_image(parameters_of(content_type)[0]):
        raise MalformedMultipartError(
            f"field {shortened(field)!r} is not a file; options such as top_k and model go into "
            "the query, and an image has a filename or the Content-Type of one"
        )


def _transferred(content: bytes, encoding: bytes) -> bytes | RequestError:
    """Undo a Content-Transfer-Encoding (RFC 2045, section 6), which some mail libraries write."""
    if encoding in _PLAIN_TRANSFER:
        return content
    if encoding == b"base64":
        return _decoded(content.translate(None, b"\r\n\t "))
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(content)
    return ContentEncodingError(
        f"Content-Transfer-Encoding {shortened(encoding)!r} is not accepted; base64, "
        "quoted-printable, binary, 8bit and 7bit are"
    )


def _check_count(images: int, max_images: int) -> None:
    if images == 0:
        raise NoImagesError("the request holds no image")
    if images > max_images:
        raise TooManyImagesError(
            f"the request holds more than {max_images} images (max_images); send several requests"
        )

"""The three forms of a body: the raw image, multipart/form-data, and JSON with base64.

Each becomes a list of encoded images. Where one of several is bad already here (its encoding), its
place holds its error, so that its neighbours are served.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

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
from service.http.multipart import (
    Headers,
    boundary_of,
    file_name,
    names_a_file,
    parameters_of,
    parts_of,
)
from service.http.schemas import JsonImages
from service.http.upload import check_encoding
from service.wording import shortened, what_is_wrong


@dataclass(frozen=True, slots=True)
class PostedImage:
    """An image file, or why there is none, and the name that a form gives it."""

    content: bytes | RequestError
    name: str | None = None


BodyParser = Callable[[bytes, int], list[PostedImage]]
"""Takes a body and `max_images`."""

_JSON_FORM = '{"images": [{"data": "<base64>"}]}'
_SPARE_COMMAS = 100
_MAX_TYPE_BYTES = 1000
_OPTIONS = frozenset({b"top_k", b"model", b"version"})
_PLAIN_TRANSFER = frozenset({b"", b"binary", b"8bit", b"7bit"})
_SPACES = " \t\n\f\r"
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ESCAPES = {"%2B": "+", "%2b": "+", "%2F": "/", "%2f": "/", "%3D": "=", "%3d": "="} | {
    "%20": "", "%09": "", "%0A": "", "%0a": "", "%0D": "", "%0d": "",
}  # fmt: skip
"""What of base64, and of the white space in it, a URL has as escapes."""


def body_parser_of(content_type: bytes | None) -> BodyParser | None:
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
    """Return whether a media type may stand over an image file."""
    return kind.startswith(b"image/") or kind == b"application/octet-stream"


def parse_json(body: bytes, max_images: int) -> list[PostedImage]:
    """Read `{"images": [{"data": "<base64>"}]}`."""
    if not (encoding := json.detect_encoding(body)).startswith("utf-8"):
        raise MalformedJsonError(
            f"the body looks like {encoding[:6].upper()}; JSON must be UTF-8 (RFC 8259, 8.1)"
        )
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
    """Read base64, or a data: URL (RFC 2397) of it."""
    if data[:1].isspace():
        data = data.lstrip(_SPACES)
    if data[:5].lower() != "data:":
        return _decoded(data)
    head, comma, data = data.partition(",")
    if not (comma and head.rpartition(";")[2].strip(" ").lower() == "base64"):
        return InvalidBase64Error("data is a data: URL that is not in base64")
    if "%" in data:
        for escaped, plain in _ESCAPES.items():
            data = data.replace(escaped, plain)
    return _decoded(data)


def _decoded(data: bytes | str) -> bytes | RequestError:
    """Read standard base64; where it is none, what else is written for it."""
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return _decoded_leniently(data)


def _decoded_leniently(data: bytes | str) -> bytes | RequestError:
    """Read base64 or base64url, which may lack its padding, without white space.

    MIME writers break lines (RFC 2045). Section 5 of RFC 4648 lets padding go.
    """
    try:
        raw = data.encode("ascii") if isinstance(data, str) else data
        raw = raw.translate(None, _SPACES.encode())
        if b"-" in raw or b"_" in raw:
            if b"+" in raw or b"/" in raw:
                return InvalidBase64Error("data mixes base64 and base64url (RFC 4648)")
            raw = raw.translate(_FROM_URL_SAFE)
            if raw[-1:] != b"=":
                raw += b"=" * (-len(raw) % 4)
        return base64.b64decode(raw, validate=True)
    except ValueError as error:
        return InvalidBase64Error(f"data is neither base64 nor base64url (RFC 4648): {error}")


def parse_multipart(body: bytes, boundary: bytes, max_images: int) -> list[PostedImage]:
    """Read the file parts of a form, in memory, whatever their fields are called."""
    images: list[PostedImage] = []
    for headers, content in parts_of(body, boundary):
        kind, parameters = parameters_of(headers.get(b"content-disposition", b""))
        if kind != b"form-data":
            raise MalformedMultipartError("a part has no Content-Disposition: form-data")
        content_type = headers.get(b"content-type", b"")
        if content_type[:10].lower() == b"multipart/":
            raise MalformedMultipartError(
                f"field {shortened(parameters.get(b'name', b''))!r} is a form in the form "
                f"({shortened(content_type)}), which is not read; give each file a part of its own "
                "(RFC 7578, section 4.3)"
            )
        if not names_a_file(parameters):
            _check_is_image(parameters.get(b"name", b""), content_type)
        if len(images) == max_images:
            _check_count(max_images + 1, max_images)
        images.append(PostedImage(_content(headers, content), file_name(parameters)))
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


def _content(headers: Headers, content: bytes) -> bytes | RequestError:
    """Return the image of a part, or why its encoding lets none be read."""
    try:
        check_encoding(headers.get(b"content-encoding", b""), _PLAIN_TRANSFER)
    except ContentEncodingError as error:
        return error
    return _transferred(content, headers.get(b"content-transfer-encoding", b"").lower())


def _transferred(content: bytes, encoding: bytes) -> bytes | RequestError:
    """Undo a Content-Transfer-Encoding (RFC 2045, section 6), which some mail libraries write."""
    if encoding in _PLAIN_TRANSFER:
        return content
    if encoding == b"base64":
        return _decoded(content)
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

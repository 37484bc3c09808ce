"""The three kinds of request bodies: raw image, multipart/form-data, and JSON with base64.

Each becomes a list of encoded images. If one of several is already found to be bad here (its
encoding), its entry holds the error, so that the others are still served.
"""

from __future__ import annotations

import binascii
import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from service.errors import (
    ContentEncodingError,
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
from service.http.schemas import JsonImages, JsonInstances
from service.http.upload import check_encoding
from service.inference.base64_text import decoded, from_base64
from service.wording import shortened, what_is_wrong


@dataclass(frozen=True, slots=True)
class PostedImage:
    """An image file, or the error in its place, and its file name in a form."""

    content: bytes | RequestError
    name: str | None = None


BodyParser = Callable[[bytes, int], list[PostedImage]]
"""Takes a body and `max_images`."""

S = TypeVar("S", bound=BaseModel)

_INSTANCES_FORM = '{"instances": [{"b64": "<base64>"}]}'
_JSON_FORM = '{"images": [{"data": "<base64>"}]}'
_SPARE_COMMAS = 100
_MAX_TYPE_BYTES = 1000
_OPTIONS = frozenset({b"top_k", b"model", b"version"})
_PLAIN_TRANSFER = frozenset({b"", b"binary", b"8bit", b"7bit"})


_CURLS = b"application/x-www-form-urlencoded"
"""What `curl --data-binary` says of a body unless it is told otherwise."""


def body_parser_of(content_type: bytes | None) -> BodyParser | None:
    """Return the parser for a Content-Type; None if the body itself is the image.

    Raises `UnsupportedMediaTypeError`, or `MalformedMultipartError` if the boundary is missing.
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
    hint = " (curl's default: add -H 'Content-Type: image/jpeg')" if kind == _CURLS else ""
    raise UnsupportedMediaTypeError(
        f"Content-Type {shortened(kind)!r} is not accepted{hint}; send one image as image/* or "
        "application/octet-stream, several as multipart/form-data, or base64 as application/json"
    )


def _is_image(kind: bytes) -> bool:
    """Return whether a media type is accepted for an image file."""
    return kind.startswith(b"image/") or kind == b"application/octet-stream"


def parse_json(body: bytes, max_images: int) -> list[PostedImage]:
    """Parse `{"images": [{"data": "<base64>"}]}`."""
    items = _parse(JsonImages, body, max_images, _JSON_FORM, b'"data"').images
    _check_count(len(items), max_images)
    return [PostedImage(from_base64(item.data)) for item in items]


def parse_instances(body: bytes, max_images: int) -> list[PostedImage]:
    """Parse Vertex AI's `{"instances": [{"b64": "<base64>"}]}`."""
    items = _parse(JsonInstances, body, max_images, _INSTANCES_FORM, b'"b64"').instances
    _check_count(len(items), max_images)
    return [PostedImage(from_base64(item.b64)) for item in items]


def _parse(schema: type[S], body: bytes, max_images: int, form: str, key: bytes) -> S:
    """Return a body by its schema; `form` shows it, and `key` stands before each image."""
    if not (encoding := json.detect_encoding(body)).startswith("utf-8"):
        raise MalformedJsonError(
            f"the body looks like {encoding[:6].upper()}; JSON must be UTF-8 (RFC 8259, 8.1)"
        )
    # Counted before parsing, since millions of small items would take gigabytes. Neither base64
    # nor this JSON has other commas; one more per image is allowed for `data:` prefixes.
    if body.count(b",") > 2 * max_images + _SPARE_COMMAS:
        _check_count(max(body.count(key), 1), max_images)
        raise MalformedJsonError(f"too many items; expected {form}")
    try:
        # Some editors and PowerShell write a byte order mark first (RFC 8259, section 8.1).
        return schema.model_validate_json(body.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors()[0]
        where = shortened(".".join(str(part) for part in first["loc"]))
        raise MalformedJsonError(
            f"{where + ': ' if where else ''}{what_is_wrong(first)}; expected {form}"
        ) from error


def parse_multipart(body: bytes, boundary: bytes, max_images: int) -> list[PostedImage]:
    """Return the files of a form, read in memory, whatever their fields are called."""
    images: list[PostedImage] = []
    for headers, content in parts_of(body, boundary):
        kind, parameters = parameters_of(headers.get(b"content-disposition", b""))
        if kind != b"form-data":
            raise MalformedMultipartError("a part lacks a Content-Disposition: form-data header")
        content_type = headers.get(b"content-type", b"")
        if content_type[:10].lower() == b"multipart/":
            raise MalformedMultipartError(
                f"field {shortened(parameters.get(b'name', b''))!r} is a nested form "
                f"({shortened(content_type)}), which is not supported; send each file as its own "
                "part (RFC 7578, section 4.3)"
            )
        if not names_a_file(parameters):
            _check_is_image(parameters.get(b"name", b""), content_type)
        if len(images) == max_images:
            _check_count(max_images + 1, max_images)
        images.append(PostedImage(_content(headers, content), file_name(parameters)))
    _check_count(len(images), max_images)
    return images


def _check_is_image(field: bytes, content_type: bytes) -> None:
    """Refuse a part without a file name, unless its Content-Type is an image's.

    Having a type at all means nothing: many clients give text fields one (.NET, Apache HttpClient).
    """
    if field in _OPTIONS or not _is_image(parameters_of(content_type)[0]):
        raise MalformedMultipartError(
            f"field {shortened(field)!r} is not a file; pass options such as top_k and model in "
            "the query, and give an image a filename or an image's Content-Type"
        )


def _content(headers: Headers, content: bytes) -> bytes | RequestError:
    """Return a part's image, or the error if its encoding is not accepted."""
    try:
        check_encoding(headers.get(b"content-encoding", b""), _PLAIN_TRANSFER)
    except ContentEncodingError as error:
        return error
    return _transferred(content, headers.get(b"content-transfer-encoding", b"").lower())


def _transferred(content: bytes, encoding: bytes) -> bytes | RequestError:
    """Decode a Content-Transfer-Encoding (RFC 2045, section 6), which some mail libraries use."""
    if encoding in _PLAIN_TRANSFER:
        return content
    if encoding == b"base64":
        return decoded(content)
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(content)
    return ContentEncodingError(
        f"Content-Transfer-Encoding {shortened(encoding)!r} is not accepted; use base64, "
        "quoted-printable, binary, 8bit or 7bit"
    )


def _check_count(images: int, max_images: int) -> None:
    if images == 0:
        raise NoImagesError("the request holds no image")
    if images > max_images:
        raise TooManyImagesError(
            f"the request holds more than {max_images} images (max_images); send several requests"
        )

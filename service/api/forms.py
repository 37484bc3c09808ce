"""The three forms of a body: the raw image, multipart/form-data, and JSON with base64.

Each becomes a list of encoded images. Where one of several is bad already here (base64), its
place holds its error, so that its neighbours are served.
"""

from __future__ import annotations

import base64
import binascii
import codecs
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.api.schemas import JsonImages
from service.errors import (
    InvalidBase64Error,
    MalformedJsonError,
    MalformedMultipartError,
    NoImagesError,
    RequestError,
    TooManyImagesError,
    UnsupportedMediaTypeError,
)

EncodedImages = list[bytes | RequestError]
FormParser = Callable[[bytes, int], EncodedImages]
"""Takes a body and `max_images`."""

_JSON_FORM = '{"images": [{"data": "<base64>"}]}'
_SPARE_COMMAS = 100
_SHOWN_CHARACTERS = 100


def form_of(content_type: bytes | None) -> FormParser | None:
    """Choose the parser for a Content-Type; None means that the body itself is the image.

    Raises `UnsupportedMediaTypeError`, and `MalformedMultipartError` for one without a boundary.
    """
    if not content_type:
        return None
    kind_bytes, options = parse_options_header(content_type)
    kind = kind_bytes.decode("latin-1").strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return None
    if kind == "application/json":
        return parse_json
    if kind == "multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedMultipartError("the Content-Type has no boundary")
        return lambda body, max_images: parse_multipart(body, boundary, max_images)
    raise UnsupportedMediaTypeError(
        f"Content-Type {kind!r} is not accepted; send an image as image/jpeg (any image/* or "
        "application/octet-stream), several as multipart/form-data, or base64 as application/json"
    )


def parse_json(body: bytes, max_images: int) -> EncodedImages:
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
        where = _shortened(".".join(str(part) for part in first["loc"]))
        raise MalformedJsonError(
            f"{where + ': ' if where else ''}{first['msg']}; expected {_JSON_FORM}"
        ) from error
    _check_count(len(items), max_images)
    return [_from_base64(item.data) for item in items]


def _from_base64(data: str) -> bytes | RequestError:
    """Read base64, with line ends as MIME has them (RFC 2045), or a data: URL (RFC 2397) of it."""
    if data[:5].lower() == "data:":
        head, comma, data = data.partition(",")
        if not (comma and head.lower().endswith(";base64")):
            return InvalidBase64Error("data is a data: URL that is not in base64")
    if "\n" in data or "\r" in data:
        data = data.replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        return InvalidBase64Error(f"data is not standard base64 (RFC 4648, section 4): {error}")


def parse_multipart(body: bytes, boundary: bytes, max_images: int) -> EncodedImages:
    """Read the file parts of a form, in memory, whatever their fields are called."""
    form = _Form(max_images)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedMultipartError(f"the form does not parse: {error}") from error
    if not form.complete:
        raise MalformedMultipartError("the form ends without its closing boundary")
    _check_count(len(form.files), max_images)
    return [bytes(part) for part in form.files]


def _shortened(name: str) -> str:
    """Cut a name that the client chose, so that a message does not echo megabytes."""
    return name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."


def _check_count(images: int, max_images: int) -> None:
    if images == 0:
        raise NoImagesError("the request holds no image")
    if images > max_images:
        raise TooManyImagesError(
            f"the request holds more than {max_images} images (max_images); send several requests"
        )


@dataclass
class _Form:
    """Collects what the multipart parser calls back."""

    max_images: int
    files: list[bytearray] = field(default_factory=list)
    complete: bool = False
    _header: list[bytearray] = field(default_factory=lambda: [bytearray(), bytearray()])
    _headers: dict[bytes, bytes] = field(default_factory=dict)

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_begin": self._new_header,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._keep_header,
            "on_headers_finished": self._open_part,
            "on_part_data": lambda data, start, end: self.files[-1].extend(
                memoryview(data)[start:end]
            ),
            "on_end": self._end,
        }

    def _new_header(self) -> None:
        self._header = [bytearray(), bytearray()]

    def _keep_header(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])

    def _open_part(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, options = parse_options_header(disposition.decode("latin-1"))
        if kind != b"form-data":
            raise MalformedMultipartError("a part has no Content-Disposition: form-data")
        if b"filename" not in options and b"content-type" not in self._headers:
            name = _shortened(options.get(b"name", b"").decode("utf-8", "replace"))
            raise MalformedMultipartError(
                f"field {name!r} is not a file; options such as top_k and model go into the query"
            )
        if len(self.files) == self.max_images:
            _check_count(self.max_images + 1, self.max_images)
        self.files.append(bytearray())

    def _end(self) -> None:
        self.complete = True

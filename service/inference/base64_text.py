"""Images as base64 text, as standards and clients write it."""

from __future__ import annotations

import base64

from service.errors import InvalidBase64Error, RequestError

_SPACES = " \t\n\f\r"
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ESCAPES = {"%2B": "+", "%2b": "+", "%2F": "/", "%2f": "/", "%3D": "=", "%3d": "="} | {
    "%20": "", "%09": "", "%0A": "", "%0a": "", "%0D": "", "%0d": "",
}  # fmt: skip
"""Percent-encoded characters of base64, and of white space in it, as found in URLs."""


def from_base64(data: str) -> bytes | RequestError:
    """Decode base64 or a data: URL (RFC 2397) with base64."""
    if data[:1].isspace():
        data = data.lstrip(_SPACES)
    if data[:5].lower() != "data:":
        return decoded(data)
    head, comma, data = data.partition(",")
    if not (comma and head.rpartition(";")[2].strip(" ").lower() == "base64"):
        return InvalidBase64Error("data is a data: URL without base64")
    if "%" in data:
        for escaped, plain in _ESCAPES.items():
            data = data.replace(escaped, plain)
    return decoded(data)


def decoded(data: bytes | str) -> bytes | RequestError:
    """Decode standard base64 or, failing that, its common variants."""
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return _decoded_leniently(data)


def _decoded_leniently(data: bytes | str) -> bytes | RequestError:
    """Decode base64, or base64url with or without padding, ignoring white space.

    MIME encoders break lines (RFC 2045). Padding is optional by RFC 4648, section 5.
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

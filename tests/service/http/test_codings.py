"""Which content coding an answer gets, by what the client accepts."""

from __future__ import annotations

import gzip
import zlib

import pytest

from service.errors import ContentEncodingError
from service.http.codings import accepted_coding, coding_of, compressed


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"", b""),
        (b"identity", b""),
        (b"br", b""),
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"deflate, gzip, br", b"gzip"),
        (b"GZIP;q=0.5", b"gzip"),
        (b"gzip;q=0", b""),
        (b"gzip; q=0.000, deflate;q=0.001", b"deflate"),
        (b"gzip;q=1.0", b"gzip"),
    ],
)
def test_an_answer_gets_a_coding_that_the_client_accepts(accepted, coding):
    """A weight of 0 means that it does not (RFC 9110, section 12.5.3)."""
    assert accepted_coding(accepted) == coding


def test_a_body_is_compressed_as_its_coding_says():
    body = b"pixels" * 1000
    assert gzip.decompress(compressed(body, b"gzip")) == body
    assert zlib.decompress(compressed(body, b"deflate")) == body


def test_a_body_has_one_coding_at_most():
    assert coding_of(b"") == coding_of(b"identity, ") == b""
    assert coding_of(b" GZIP ") == b"gzip"
    with pytest.raises(ContentEncodingError, match="several"):
        coding_of(b"gzip, deflate")

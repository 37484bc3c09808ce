"""Which kind of answer a client gets, by its Accept header."""

from __future__ import annotations

import pytest

from service.errors import NotAcceptableError
from service.http.accept import JSON, OCTETS, PNG, preferred


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, PNG),
        (b"", PNG),
        (b"*/*", PNG),
        (b"application/json", JSON),
        (b"APPLICATION/JSON; charset=utf-8", JSON),
        (b"application/*", JSON),
        (b"application/octet-stream, application/json", JSON),
        (b"application/octet-stream, application/json;q=0.9", OCTETS),
        (b"text/html, image/*;q=0.8, */*;q=0.5", PNG),
        (b"*/*;q=0.5, application/octet-stream", OCTETS),
        (b"image/png;q=0, */*", JSON),
        (b"image/*;q=0.2, application/json;q=0.1", PNG),
        (b"application/json ; q=1.000", JSON),
        (b"application/json;q=high", JSON),
        (b", ,application/json,", JSON),
    ],
)
def test_the_most_preferred_kind_is_chosen_and_of_equal_ones_the_first(accept, chosen):
    """As in RFC 9110, section 12.5.1: the most specific range counts."""
    assert preferred(accept, (PNG, JSON, OCTETS)) == chosen


@pytest.mark.parametrize("accept", [b"text/html", b"image/*", b"*/*;q=0", b"garbage", b";;,=;q"])
def test_a_client_that_takes_none_is_told_what_there_is(accept):
    with pytest.raises(NotAcceptableError, match="application/json or application/octet-stream"):
        preferred(accept, (JSON, OCTETS))

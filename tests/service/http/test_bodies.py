"""The form of a body by its type, and JSON: parsed back exactly, or refused by name."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import (
    InvalidBase64Error,
    MalformedJsonError,
    MalformedMultipartError,
    NoImagesError,
    RequestError,
    TooManyImagesError,
    UnsupportedMediaTypeError,
)
from service.http.bodies import body_parser_of, parse_json

bounded = settings(max_examples=300)

MANY = 32


def parsed_json(body: bytes, max_images: int = MANY) -> list[bytes | RequestError]:
    return [image.content for image in parse_json(body, max_images)]


# Which form


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "image/jpeg",
        "image/png; name=x",
        "IMAGE/WEBP",
        "image/anything-at-all",
        "application/octet-stream",
        " image/png ",
    ],
)
def test_a_body_that_is_called_an_image_or_nothing_is_the_image(content_type):
    assert body_parser_of(content_type and content_type.encode()) is None


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8"]
)
def test_json_is_parsed_as_json(content_type):
    assert body_parser_of(content_type.encode()) is parse_json


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""'],
)
def test_a_form_without_a_boundary_is_malformed(content_type):
    with pytest.raises(MalformedMultipartError, match="no boundary"):
        body_parser_of(content_type.encode())


def test_a_boundary_that_is_far_too_long_is_malformed():
    with pytest.raises(MalformedMultipartError, match="longer than"):
        body_parser_of(b"multipart/form-data; boundary=" + b"x" * 300)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=x",
        "application/jsonp",
        "imagejpeg",
        ";",
        "/",
    ],
)
def test_any_other_type_is_told_the_accepted_ones(content_type):
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        body_parser_of(content_type.encode())
    for accepted in ("image/*", "multipart/form-data", "application/json"):
        assert accepted in str(caught.value)


@given(content_type=st.text(st.characters(max_codepoint=255), max_size=80))
@bounded
def test_any_header_chooses_a_form_or_is_refused(content_type):
    """Headers come as latin-1."""
    for value in (content_type, f"multipart/form-data; {content_type}", f"image/x;{content_type}"):
        try:
            chosen = body_parser_of(value.encode("latin-1"))
        except (UnsupportedMediaTypeError, MalformedMultipartError):
            continue
        assert chosen is None or callable(chosen)


def test_a_content_type_without_end_is_refused_unread():
    """Headers may have 64 KiB."""
    for kind in (b"image/png" + b";" * 60_000, b"multipart/form-data" + b";a=b" * 15_000):
        with pytest.raises(UnsupportedMediaTypeError, match="longer than 1000 bytes"):
            body_parser_of(kind)


# JSON


def as_json(*images: bytes) -> bytes:
    items = [{"data": base64.b64encode(image).decode()} for image in images]
    return json.dumps({"images": items}).encode()


@given(images=st.lists(st.binary(max_size=80), min_size=1, max_size=8))
@bounded
def test_json_comes_back_byte_for_byte(images):
    assert parsed_json(as_json(*images)) == images


@given(
    body=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["images", "data", "x"]), inner, max_size=3)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
@bounded
def test_any_json_is_images_or_refused(body):
    try:
        images = parsed_json(body)
    except (MalformedJsonError, NoImagesError, TooManyImagesError):
        return
    assert images
    assert all(isinstance(image, bytes | InvalidBase64Error) for image in images)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"images": {}}',
        b'{"images": [1]}',
        b'{"images": ["QUJD"]}',
        b'{"images": [{}]}',
        b'{"images": [{"data": 1}]}',
        b'{"images": [{"data": "QUJD", "name": "a"}]}',
        b'{"image": [{"data": "QUJD"}]}',
        b'{"images": [{"data": "QUJD"}], "top_k": 3}',
        b'{"images": [{"data": "\xff"}]}',
        b"[" * 10_000,
        b'{"images": [{"data": "QUJD"}]} and more',
    ],
)
def test_json_of_another_form_is_told_the_right_one(body):
    with pytest.raises(MalformedJsonError) as caught:
        parsed_json(body)
    assert '{"images": [{"data": "<base64>"}]}' in str(caught.value)


def test_the_place_of_a_mistake_is_named():
    with pytest.raises(MalformedJsonError, match=r"images\.1\.data"):
        parsed_json(b'{"images": [{"data": "QUJD"}, {"data": 5}]}')


def test_json_without_images_holds_none():
    with pytest.raises(NoImagesError):
        parsed_json(b'{"images": []}')


@pytest.mark.parametrize("images", [4, 50, 5000])
def test_json_of_too_many_images_is_refused(images):
    assert len(parse_json(as_json(*[b"x"] * 3), max_images=3)) == 3
    with pytest.raises(TooManyImagesError, match="more than 3"):
        parse_json(as_json(*[b"x"] * images), max_images=3)


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": [' + b"0," * 200_000 + b"0]}",
        b'{"images": [' + b"{}," * 200_000 + b"{}]}",
        b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b"}",
    ],
    ids=["numbers", "objects", "fields"],
)
def test_json_of_very_many_items_is_refused_before_it_is_parsed(body, monkeypatch):
    """Each item would become an error of hundreds of bytes: 32 MB of them, 20 GB."""

    def parse(body):
        raise AssertionError("parsed")

    monkeypatch.setattr("service.http.schemas.JsonImages.model_validate_json", parse)
    with pytest.raises(MalformedJsonError, match="too many items"):
        parsed_json(body)


def test_a_message_does_not_echo_a_key_of_any_length():
    with pytest.raises(MalformedJsonError) as caught:
        parsed_json(b'{"images": [], "' + b"k" * 100_000 + b'": 1}')
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data",
    [
        "%%%",
        "QUJ",
        "=",
        "QU+_",
        "-/JD",
        "QU-_Q",
        "QU=-",
        "-_=A",
        "Q\vJD",
        "QU\u00a0JD",
        "%51UJD",
        "QU%2BD",
        "Q=JD",
        "é",
        "data:image/png;base64,%",
        "data:image/png;base64,QU%2",
        "data:image/png;base64,QU%2B_",
        "data:base64,QUJD",
        "data:,QUJD",
        "data:image/png;base64",
        "data:",
        "Data:image/png;charset=utf-8,QUJD",
    ],
)
def test_what_is_no_base64_is_that_images_error(data):
    """Its neighbours are good."""
    good = {"data": "QUJD"}
    body = json.dumps({"images": [good, {"data": data}, good]}).encode()
    first, error, last = parsed_json(body)
    assert first == last == b"ABC"
    assert isinstance(error, InvalidBase64Error)
    assert (error.status, error.code) == (422, "invalid_base64")
    assert "base64" in str(error)


@pytest.mark.parametrize(
    "data",
    ["QUJDQUJD", "QUJD\nQUJD", "QUJD\r\nQUJD\r\n", "data:image/png;base64,QUJDQUJD",
     "data:;base64,QUJD\nQUJD", "DATA:image/jpeg;name=a.jpg;BASE64,QUJDQUJD",
     " \t\r\n\fQUJD QUJ\tD\f\n ", "\n data:image/png; base64, QUJDQUJD\n",
     "data:image/png;base64,QUJD%0D%0aQUJD%20"],
)  # fmt: skip
def test_base64_may_have_white_space_or_be_a_data_url(data):
    """As MIME writers, browsers and notebooks give it."""
    body = json.dumps({"images": [{"data": data}]}).encode()
    assert parsed_json(body) == [b"ABCABC"]


FLAGGED = bytes.fromhex("fbeffe ffbfff fe")
"""Bytes whose base64 has the characters that base64url has not, and padding."""


@pytest.mark.parametrize(
    "data",
    ["++/+/7///g==", "--_-_7___g==", "--_-_7___g", " --_-\n_7___g ",
     "data:image/png;base64,%2B%2B%2f%2B%2F7%2F%2F%2fg%3D%3d", "data:;base64,--_-_7___g"],
)  # fmt: skip
def test_base64_may_be_base64url_and_escaped_in_a_url(data):
    """As other languages' standard encoders give it (RFC 4648, section 5; RFC 2397)."""
    assert base64.b64decode("++/+/7///g==") == FLAGGED
    assert parsed_json(json.dumps({"images": [{"data": data}]}).encode()) == [FLAGGED]


@given(content=st.binary(max_size=60), data=st.data())
@bounded
def test_any_image_comes_back_in_each_alphabet_and_with_space_anywhere(content, data):
    encode = data.draw(st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
    text = encode(content).decode()
    for at in data.draw(st.lists(st.integers(0, len(text)), max_size=4)):
        text = text[:at] + data.draw(st.sampled_from(" \t\r\n\f")) + text[at:]
    assert parsed_json(json.dumps({"images": [{"data": text}]}).encode()) == [content]


def test_base64_that_mixes_the_alphabets_is_told_so():
    [error] = parsed_json(b'{"images": [{"data": "+-__"}]}')
    assert "mixes" in str(error)


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_json_in_another_encoding_is_told_the_right_one(encoding):
    """A byte order mark or not; whatever the Content-Type says."""
    body = '{"images": [{"data": "QUJD"}]}'.encode(encoding)
    with pytest.raises(MalformedJsonError) as caught:
        parsed_json(body)
    said = f"the body looks like {encoding[:6].upper()}; JSON must be UTF-8"
    assert str(caught.value).startswith(said)


def test_json_may_begin_with_a_byte_order_mark():
    assert parsed_json(b'\xef\xbb\xbf{"images": [{"data": "QUJD"}]}') == [b"ABC"]


def test_as_many_data_urls_as_images_are_read():
    """A comma in each is no sign of an attack."""
    items = [{"data": "data:image/png;base64,QUJD"}] * MANY
    assert parsed_json(json.dumps({"images": items}).encode()) == [b"ABC"] * MANY

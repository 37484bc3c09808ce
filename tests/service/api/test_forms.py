"""The forms of a body: parsed back exactly, or refused by name, whatever the bytes."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.api.forms import form_of, parse_json, parse_multipart
from service.errors import (
    InvalidBase64Error,
    MalformedJsonError,
    MalformedMultipartError,
    NoImagesError,
    RequestError,
    TooManyImagesError,
    UnsupportedMediaTypeError,
)

bounded = settings(max_examples=300)

BOUNDARY = b"frontier-7f3"
MANY = 32


def part(content: bytes, *headers: bytes, name: bytes = b"files") -> bytes:
    """A part of a form; without `headers` one as browsers send them."""
    lines = headers or (
        b'Content-Disposition: form-data; name="%s"; filename="a.jpg"' % name,
        b"Content-Type: image/jpeg",
    )
    return b"\r\n".join([b"--" + BOUNDARY, *lines, b"", content, b""])


def form(*parts: bytes) -> bytes:
    return b"".join([*parts, b"--" + BOUNDARY + b"--\r\n"])


def parsed(body: bytes, max_images: int = MANY) -> list[bytes | RequestError]:
    return parse_multipart(body, BOUNDARY, max_images)


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
    assert form_of(content_type and content_type.encode()) is None


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8"]
)
def test_json_is_parsed_as_json(content_type):
    assert form_of(content_type.encode()) is parse_json


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=frontier-7f3",
        'Multipart/Form-Data; boundary="frontier-7f3"',
        "multipart/form-data; charset=utf-8; boundary=frontier-7f3",
        "multipart/form-data;boundary=frontier-7f3;",
    ],
)
def test_a_form_is_parsed_with_its_boundary(content_type):
    parser = form_of(content_type.encode())
    assert parser is not None
    assert parser(form(part(b"abc")), MANY) == [b"abc"]


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""'],
)
def test_a_form_without_a_boundary_is_malformed(content_type):
    with pytest.raises(MalformedMultipartError, match="no boundary"):
        form_of(content_type.encode())


def test_a_boundary_that_is_far_too_long_is_malformed():
    parser = form_of(f"multipart/form-data; boundary={'x' * 300}")
    assert parser is not None
    with pytest.raises(MalformedMultipartError):
        parser(form(part(b"abc")), MANY)


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
        form_of(content_type.encode())
    for accepted in ("image/*", "multipart/form-data", "application/json"):
        assert accepted in str(caught.value)


@given(content_type=st.text(st.characters(max_codepoint=255), max_size=80))
@bounded
def test_any_header_chooses_a_form_or_is_refused(content_type):
    """Headers come as latin-1."""
    for value in (content_type, f"multipart/form-data; {content_type}", f"image/x;{content_type}"):
        try:
            chosen = form_of(value)
        except (UnsupportedMediaTypeError, MalformedMultipartError):
            continue
        assert chosen is None or callable(chosen)


# Multipart

# Contents that look like the frame around them, and any others.
LOOKALIKES = [
    b"\r\n", b"\r", b"\n", b"-", b"--", b"\r\n--", b"--" + BOUNDARY, b"\r\n--" + BOUNDARY[:-1],
    BOUNDARY, b"\r\n\r\n", b"\r\n-", b"Content-Disposition: form-data; name=x", b"\0", b"\xff\xd8",
]  # fmt: skip
contents = st.binary(max_size=60) | st.lists(
    st.sampled_from(LOOKALIKES) | st.binary(max_size=5), max_size=12
).map(b"".join)
field_names = st.sampled_from([b"files", b"image", b"", b"a b", b"x" * 200, "ü".encode()])
heads = st.sampled_from(
    [
        (b'Content-Disposition: form-data; name="f"; filename="photo; of \\"it\\".jpg"',),
        (b'content-disposition: form-data; filename=""; name="f"', b"CONTENT-TYPE: image/png"),
        (b'Content-Type: image/png', b'Content-Disposition: form-data; name="f"'),
        (b'Content-Disposition: form-data; name="f"; filename="\xc3\xbc.jpg"', b"X-Other: 1"),
        (b"Content-Disposition:form-data;name=f;filename=a",),
    ]
)  # fmt: skip


@given(images=st.lists(st.tuples(contents, st.none() | heads, field_names), min_size=1, max_size=6))
@bounded
def test_a_form_comes_back_byte_for_byte(images):
    """Whatever is in the images, the fields' names and the order of the headers."""
    delimiter = b"\r\n--" + BOUNDARY
    assume(all(delimiter not in b"\r\n" + content + b"\r\n" for content, _, _ in images))
    body = form(*(part(content, *(head or ()), name=name) for content, head, name in images))
    assert parsed(body) == [content for content, _, _ in images]


def test_large_parts_come_back_whole():
    """Over a mebibyte, where others would begin to write to disk."""
    contents = [bytes(range(256)) * 6000, b"\r\n" * 700_000, b"--" * 700_000]
    assert parsed(form(*map(part, contents))) == contents


def test_an_empty_part_is_an_empty_image():
    """The browser's field that was left empty."""
    assert parsed(form(part(b""), part(b"x"))) == [b"", b"x"]


def test_the_closing_boundary_needs_no_newline_and_may_be_followed_by_anything():
    whole = form(part(b"abc"))
    assert parsed(whole.removesuffix(b"\r\n")) == [b"abc"]
    assert parsed(whole + b"epilogue") == [b"abc"]
    assert parsed(b"\r\n" + whole) == [b"abc"]


@pytest.mark.parametrize("length", range(1, len(form(part(b"abc"))) - 2))
def test_a_form_that_is_cut_off_is_malformed_wherever(length):
    with pytest.raises(MalformedMultipartError):
        parsed(form(part(b"abc"))[:length])


@st.composite
def corrupted(draw) -> bytes:
    """A form with a few bytes changed, lost or put in."""
    body = bytearray(form(*map(part, draw(st.lists(contents, max_size=3)))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        piece = draw(st.sampled_from(LOOKALIKES) | st.binary(min_size=1, max_size=4))
        body[at : at + draw(st.integers(0, len(piece)))] = piece
    return bytes(body)


@given(body=corrupted() | st.binary(max_size=200))
@settings(bounded, max_examples=800)
def test_a_corrupted_form_is_malformed_or_gives_what_it_then_says(body):
    """Never any other error; an image is a piece of the body that was sent."""
    try:
        images = parsed(body, max_images=4)
    except (MalformedMultipartError, NoImagesError, TooManyImagesError):
        return
    assert 1 <= len(images) <= 4
    assert all(isinstance(image, bytes) and image in body for image in images)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\r\n",
        b"not a form",
        b"--other\r\n",
        form(part(b"abc")).replace(b"\r\n", b"\n"),
        part(b"abc") + b"--other--\r\n",
        form(part(b"abc", b"No colon here")),
        form(part(b"abc", b": no name")),
        form(part(b"abc", b'Content Disposition: form-data; name="f"; filename="a"')),
        form(part(b"abc", b"X: " + b"y" * 100_000)),
        form(part(b"abc", *[b"X-%d: y" % number for number in range(100)])),
    ],
)
def test_what_is_no_form_is_malformed(broken):
    with pytest.raises(MalformedMultipartError):
        parsed(broken)


@pytest.mark.parametrize(
    "headers",
    [
        (b"Content-Type: image/png",),
        (b'Content-Disposition: attachment; filename="a"',),
        (b"Content-Disposition: ",),
        (b"",),
    ],
)
def test_a_part_that_does_not_say_that_it_is_form_data_is_malformed(headers):
    with pytest.raises(MalformedMultipartError, match="form-data"):
        parsed(form(part(b"abc", *headers)))


def test_an_option_among_the_files_is_told_where_it_belongs():
    """`-F top_k=3` would be taken for an image of one byte."""
    field = part(b"3", b'Content-Disposition: form-data; name="top_k"')
    with pytest.raises(MalformedMultipartError, match=r"'top_k' is not a file.*query"):
        parsed(form(part(b"abc"), field))


def test_a_message_does_not_echo_a_name_of_any_length():
    field = part(b"3", b'Content-Disposition: form-data; name="%s"' % (b"n" * 3000))
    with pytest.raises(MalformedMultipartError) as caught:
        parsed(form(field))
    assert len(str(caught.value)) < 300


def test_a_form_without_parts_holds_no_image():
    with pytest.raises(NoImagesError):
        parsed(form())


def test_at_most_max_images_parts_are_taken():
    assert len(parsed(form(*[part(b"abc")] * 3), max_images=3)) == 3
    with pytest.raises(TooManyImagesError, match="more than 3"):
        parsed(form(*[part(b"abc")] * 4), max_images=3)


def test_too_many_parts_are_refused_as_soon_as_one_begins():
    """What comes after it is not looked at: here it does not end."""
    body = form(*[part(b"abc")] * 4)
    with pytest.raises(TooManyImagesError):
        parsed(body[: -len(BOUNDARY) - 10], max_images=3)


# JSON


def as_json(*images: bytes) -> bytes:
    items = [{"data": base64.b64encode(image).decode()} for image in images]
    return json.dumps({"images": items}).encode()


@given(images=st.lists(st.binary(max_size=80), min_size=1, max_size=8))
@bounded
def test_json_comes_back_byte_for_byte(images):
    assert parse_json(as_json(*images), MANY) == images


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
        images = parse_json(body, MANY)
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
        parse_json(body, MANY)
    assert '{"images": [{"data": "<base64>"}]}' in str(caught.value)


def test_the_place_of_a_mistake_is_named():
    with pytest.raises(MalformedJsonError, match=r"images\.1\.data"):
        parse_json(b'{"images": [{"data": "QUJD"}, {"data": 5}]}', MANY)


def test_json_without_images_holds_none():
    with pytest.raises(NoImagesError):
        parse_json(b'{"images": []}', MANY)


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

    monkeypatch.setattr("service.api.schemas.JsonImages.model_validate_json", parse)
    with pytest.raises(MalformedJsonError, match="too many items"):
        parse_json(body, MANY)


def test_a_message_does_not_echo_a_key_of_any_length():
    with pytest.raises(MalformedJsonError) as caught:
        parse_json(b'{"images": [], "' + b"k" * 100_000 + b'": 1}', MANY)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data",
    [
        "%%%",
        "QUJ",
        "QU JD",
        "QU-_",
        "=",
        "Q=JD",
        "é",
        "data:image/png;base64,%",
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
    first, error, last = parse_json(body, MANY)
    assert first == last == b"ABC"
    assert isinstance(error, InvalidBase64Error)
    assert (error.status, error.code) == (422, "invalid_base64")
    assert "base64" in str(error)


@pytest.mark.parametrize(
    "data",
    ["QUJDQUJD", "QUJD\nQUJD", "QUJD\r\nQUJD\r\n", "data:image/png;base64,QUJDQUJD",
     "data:;base64,QUJD\nQUJD", "DATA:image/jpeg;name=a.jpg;BASE64,QUJDQUJD"],
)  # fmt: skip
def test_base64_may_have_line_ends_or_be_a_data_url(data):
    """As MIME writers, browsers and notebooks give it."""
    body = json.dumps({"images": [{"data": data}]}).encode()
    assert parse_json(body, MANY) == [b"ABCABC"]


def test_json_may_begin_with_a_byte_order_mark():
    assert parse_json(b'\xef\xbb\xbf{"images": [{"data": "QUJD"}]}', MANY) == [b"ABC"]


def test_as_many_data_urls_as_images_are_read():
    """A comma in each is no sign of an attack."""
    items = [{"data": "data:image/png;base64,QUJD"}] * MANY
    assert parse_json(json.dumps({"images": items}).encode(), MANY) == [b"ABC"] * MANY

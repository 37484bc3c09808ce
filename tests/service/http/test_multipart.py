"""Forms of files: parsed back exactly, or refused by name, whatever the bytes."""

from __future__ import annotations

import base64
import binascii
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.errors import (
    ContentEncodingError,
    InvalidBase64Error,
    MalformedMultipartError,
    NoImagesError,
    RequestError,
    TooManyImagesError,
)
from service.http.bodies import body_parser_of, parse_multipart

bounded = settings(max_examples=300)

BOUNDARY = b"frontier-7f3"
MANY = 32
FILE = b'Content-Disposition: form-data; name="files"; filename="a.jpg"'


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
    return [image.content for image in parse_multipart(body, BOUNDARY, max_images)]


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
    parser = body_parser_of(content_type.encode())
    assert parser is not None
    assert [image.content for image in parser(form(part(b"abc")), MANY)] == [b"abc"]


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


WHOLE = form(part(b"abc"), part(b"def"))


@pytest.mark.parametrize(
    "body",
    [
        WHOLE.removesuffix(b"\r\n"),
        WHOLE + b"bye",
        WHOLE + form(part(b"ghi")),
        b"\r\n" + WHOLE,
        b"\r\n\r\n" + WHOLE,
        b"This is a message in MIME format.\r\n" + WHOLE,
        b"MIME-Version: 1.0\r\nX: y\r\n\r\n" + WHOLE,
        b"--" + BOUNDARY + b"x\r\n--other\r\n" + WHOLE,
        WHOLE.replace(BOUNDARY + b"\r\n", BOUNDARY + b" \t  \r\n"),
        WHOLE.replace(BOUNDARY + b"--\r\n", BOUNDARY + b"--  \r\n"),
    ],
)
def test_what_stands_around_the_parts_is_passed_over(body):
    """Preamble, epilogue, and white space behind a boundary (RFC 2046, section 5.1.1)."""
    assert parsed(body) == [b"abc", b"def"]


def test_a_header_may_go_on_in_the_next_line():
    """As mail libraries fold them."""
    folded = b'Content-Disposition: form-data; name="f";\r\n\tfilename="a.jpg"'
    [image] = parse_multipart(form(part(b"abc", folded)), BOUNDARY, MANY)
    assert (image.content, image.name) == (b"abc", "a.jpg")


@pytest.mark.parametrize("size", [2**18 + offset for offset in range(-140, 60, 7)])
def test_a_boundary_is_found_wherever_it_lies_in_a_large_body(size):
    padded = b"--" + BOUNDARY + b" " * 50 + b"\r\n"
    body = form(part(b"\0" * size), part(b"def")).replace(b"--" + BOUNDARY + b"\r\n", padded)
    assert parsed(body) == [b"\0" * size, b"def"]


@pytest.mark.parametrize("end", [b"X", b"\r", b"-", b" X"])
def test_what_nearly_is_a_boundary_is_content_and_is_not_stepped_through(end):
    """30 MB of it would hold a thread for seconds. Counted in lines of Python that run."""
    content = (b"\r\n--" + BOUNDARY + end) * 50_000
    body, lines = form(part(content)), 0

    def count(frame, event, argument):
        nonlocal lines
        lines += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        [image] = parse_multipart(body, BOUNDARY, MANY)
    finally:
        sys.settrace(before)
    assert image.content == content
    assert lines < 1000


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


@pytest.mark.parametrize("kind", [None, b"text/plain; charset=utf-8", b"application/json"])
@pytest.mark.parametrize("field", [b"top_k", b"threshold", b""])
def test_a_text_field_is_told_where_it_belongs_whatever_its_type(kind, field):
    """`-F top_k=3` would be taken for an image of one byte; many clients name a type with it."""
    head = [b'Content-Disposition: form-data; name="%s"' % field]
    text = part(b"3", *head, *([b"Content-Type: " + kind] if kind else []))
    for body in (form(part(b"abc"), text), form(text, part(b"abc"))):
        with pytest.raises(MalformedMultipartError, match=r"is not a file.*query") as caught:
            parsed(body)
        assert repr(field.decode()) in str(caught.value)


@pytest.mark.parametrize("field", [b"top_k", b"model", b"version"])
def test_an_option_is_no_image_even_if_its_type_is_one(field):
    """As clients send it that have one type for all they post."""
    head = b'Content-Disposition: form-data; name="%s"' % field
    with pytest.raises(MalformedMultipartError, match=f"'{field.decode()}' is not a file"):
        parsed(form(part(b"3", head, b"Content-Type: application/octet-stream")))


@pytest.mark.parametrize("kind", [b"image/png", b"Image/X; a=b", b"application/octet-stream"])
def test_a_part_without_a_file_name_is_an_image_by_its_type(kind):
    head = b'Content-Disposition: form-data; name="files"'
    assert parsed(form(part(b"abc", head, b"Content-Type: " + kind))) == [b"abc"]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b'filename="a.jpg"', "a.jpg"),
        (b"filename=a.jpg", "a.jpg"),
        (rb'FileName="a; b=\"c\".jpg"', 'a; b="c".jpg'),
        (b'filename="a%22b.jpg"', 'a"b.jpg'),
        ('filename="Käse/猫.jpg"'.encode(), "Käse/猫.jpg"),
        (b'filename="\xff.jpg"', "\ufffd.jpg"),
        (b'filename="C:\\photos\\a.jpg"', "a.jpg"),
        (b"filename*=UTF-8''K%C3%A4se.jpg", "Käse.jpg"),
        (b"filename*=iso-8859-1'de'K%E4se.jpg", "Käse.jpg"),
        (b"filename*=utf-8''%FF.jpg", "\ufffd.jpg"),
        (b"filename=\"K.jpg\"; filename*=utf-8''K%C3%A4se.jpg", "Käse.jpg"),
        (b"filename*=utf-8''K%C3%A4se.jpg; filename=\"K.jpg\"", "Käse.jpg"),
        (b'filename*=nonsense; filename="a.jpg"', "a.jpg"),
        (b"filename*=nonsense", None),
        (b"filename*0=a; filename*1=b", None),
        (b'filename="a\x1b[0m\t\x7f.jpg"', "a\ufffd[0m\ufffd\ufffd.jpg"),
        (b'filename=""', None),
        (b'filename="%s"' % (b"n" * 3000), "n" * 255),
    ],
)
def test_a_file_name_makes_a_file_and_is_its_images_name(parameters, name):
    """Also one in RFC 8187's form alone, as older Python clients send names beyond ASCII."""
    head = b'Content-Disposition: form-data; name="f"; ' + parameters
    [image] = parse_multipart(form(part(b"abc", head)), BOUNDARY, MANY)
    assert (image.content, image.name) == (b"abc", name)


# How a part says that it is encoded, and what it then holds.
IMAGE = bytes(range(256)) * 3


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        (b"binary", IMAGE),
        (b"8bit", IMAGE),
        (b"7BIT", IMAGE),
        (b"", IMAGE),
        (b"base64", base64.b64encode(IMAGE)),
        (b"Base64", base64.encodebytes(IMAGE).replace(b"\n", b"\r\n")),
        (b"base64", b" \t" + base64.encodebytes(IMAGE)),
        (b"quoted-printable", binascii.b2a_qp(IMAGE, istext=False)),
    ],
)
def test_a_parts_transfer_encoding_is_undone(encoding, content):
    """As mail libraries write forms (RFC 2045, section 6)."""
    encoded = part(content, FILE, b"Content-Transfer-Encoding: " + encoding)
    assert parsed(form(part(b"x"), encoded)) == [b"x", IMAGE]


def test_an_unknown_transfer_encoding_is_that_images_error():
    odd = part(b"abc", FILE, b"Content-Transfer-Encoding: x-uuencode")
    first, error, last = parsed(form(part(b"x"), odd, part(b"y")))
    assert (first, last) == (b"x", b"y")
    assert isinstance(error, ContentEncodingError)
    assert "'x-uuencode'" in str(error)
    assert "base64, quoted-printable" in str(error)


def test_a_part_that_is_not_the_base64_it_says_is_that_images_error():
    odd = part(b"\x89PNG", FILE, b"Content-Transfer-Encoding: base64")
    error, last = parsed(form(odd, part(b"y")))
    assert isinstance(error, InvalidBase64Error)
    assert last == b"y"


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


def test_what_comes_after_one_part_too_many_is_not_looked_at():
    """Here it does not end."""
    body = form(*[part(b"abc")] * 5)
    with pytest.raises(TooManyImagesError):
        parsed(body[: -len(BOUNDARY) - 10], max_images=3)


@pytest.mark.parametrize("coding", [b"gzip", b"Deflate", b"identity, br", b"zstd"])
def test_a_compressed_part_is_that_images_error_and_names_the_coding(coding):
    """Its neighbours are good."""
    body = form(part(b"abc"), part(b"?", FILE, b"Content-Encoding: " + coding), part(b"def"))
    first, error, last = parsed(body)
    assert (first, last) == (b"abc", b"def")
    assert isinstance(error, ContentEncodingError)
    assert f"Content-Encoding {coding.decode()!r} is not accepted" in str(error)


@pytest.mark.parametrize("coding", [b"", b"identity", b"binary", b"8bit"])
def test_what_is_no_coding_of_a_part_is_passed_over(coding):
    """Some clients mix it up with Content-Transfer-Encoding."""
    assert parsed(form(part(b"abc", FILE, b"Content-Encoding: " + coding))) == [b"abc"]


@pytest.mark.parametrize("disposition", [b'Content-Disposition: form-data; name="files"', FILE])
def test_a_form_in_a_form_is_called_that(disposition):
    """Old clients send several files of a field like this (RFC 7578, section 4.3)."""
    inner = b"--in\r\nContent-Disposition: file; filename=a.png\r\n\r\nabc\r\n--in--\r\n"
    kind = b"Content-Type: Multipart/Mixed; boundary=in"
    with pytest.raises(MalformedMultipartError, match=r"nested form .*Multipart/Mixed"):
        parsed(form(part(inner, disposition, kind)))

"""Bad and unusual images over HTTP: each its own status and code, and the server goes on.

What each kind of file decodes to is tested beside the decoder; here is what a client is told.
"""

from __future__ import annotations

import base64
import struct
import zlib

import pytest
from images import claiming, colored, encode, photo, png, tiff, top_label
from PIL import Image

TAKEN_FOR = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}
SIZE = (40, 30)


def post(client, data: bytes, **options):
    return client.post("/v1/classify", content=data, **options)


def still_answers(client) -> bool:
    return top_label(post(client, colored("green"))) == "green"


def refusal(response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["detail"]
    assert "Traceback" not in response.text
    return response.status_code, problem["code"]


JPEG, PNG = encode(photo(*SIZE), "JPEG"), encode(photo(*SIZE), "PNG")
TILED = {"width": 10, "height": 10, "bits": [8], "photometric": 1, "compression": 8}

BAD = {
    "text": (b"Hello, I am no image.", 415, "not_an_image"),
    "html": (b"<!DOCTYPE html><html></html>", 415, "not_an_image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "not_an_image"),
    "pdf": (b"%PDF-1.7\n%%EOF\n", 415, "not_an_image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF", 415, "not_an_image"),
    "one byte": (b"\xff", 415, "not_an_image"),
    "another format": (encode(Image.new("RGB", SIZE), "PPM"), 415, "not_an_image"),
    "cut off jpeg": (JPEG[: len(JPEG) // 2], 422, "truncated_image"),
    "cut off png": (PNG[: len(PNG) // 2], 422, "truncated_image"),
    "cut off header": (PNG[:20], 422, "truncated_image"),
    "damaged png": (PNG[:60] + b"\0\0\0\0" + PNG[64:], 422, "corrupt_image"),
    "damaged webp": (encode(photo(*SIZE), "WEBP")[:30] + bytes(500), 422, "truncated_image"),
    "no palette": (png((8, 8), 8, 3, bytes(9) * 8), 422, "corrupt_image"),
    "places beyond any file": (b"II+\0\x08\0\0\0" + b"\xff" * 8, 422, "truncated_image"),
    "huge png": (claiming("PNG", 60_000, 60_000), 413, "image_too_large"),
    "huge jpeg": (claiming("JPEG", 8_000, 8_000), 413, "image_too_large"),
    "huge tile": (
        tiff(zlib.compress(b""), tile_width=16_384, tile_height=16_384, **TILED),
        413, "image_too_large",
    ),
    "32-bit integers": (encode(Image.new("I", SIZE, 9), "TIFF"), 422, "unsupported_pixels"),
    "32-bit floats": (encode(Image.new("F", SIZE, 0.5), "TIFF"), 422, "unsupported_pixels"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status", "code"), BAD.values(), ids=BAD.keys())
def test_a_bad_image_is_refused_by_its_cause_and_the_next_is_answered(client, data, status, code):
    """The same for the raw body, a form and JSON."""
    assert refusal(post(client, data)) == (status, code)
    assert refusal(client.post("/v1/classify", files={"files": data})) == (status, code)
    item = {"data": base64.b64encode(data).decode()}
    assert refusal(client.post("/v1/classify", json={"images": [item]})) == (status, code)
    assert still_answers(client)


def test_bad_images_do_not_fail_the_good_ones_between_them(client):
    """All of them in one form, each beside a good one."""
    bad = list(BAD.values())[:15]
    files = []
    for data, _, _ in bad:
        files += [("f", ("bad", data)), ("f", ("good", colored("blue")))]
    response = client.post("/v1/classify", files=files)
    assert response.status_code == 200
    results = response.json()["results"]
    assert [(r["error"]["status"], r["error"]["code"]) for r in results[::2]] == [
        (status, code) for _, status, code in bad
    ]
    assert {r["labels"][0]["label"] for r in results[1::2]} == {"blue"}


def test_each_bad_image_is_counted_by_its_cause(client):
    for _ in range(2):
        post(client, BAD["cut off jpeg"][0])
    text = client.get("/metrics").text
    assert (
        'resnet_serve_images_total{model="color",outcome="truncated_image",version="1"} 2' in text
    )
    assert 'resnet_serve_rejected_total{reason="truncated_image"} 2' in text


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])  # decoded on a thread, and at once
def test_the_limit_of_pixels_is_the_one_that_was_set(serve, image_format):
    client = serve(max_image_pixels=1200)
    assert post(client, PNG).status_code == 200
    response = post(client, encode(photo(41, 30), image_format))
    assert refusal(response) == (413, "image_too_large")
    assert "41 x 30 = 1230 pixels; at most 1200" in response.json()["detail"]
    assert still_answers(client)


def solid(mode: str, value, image_format: str, **options) -> bytes:
    return encode(Image.new(mode, SIZE, value), image_format, **options)


def animation(image_format: str) -> bytes:
    frames = [Image.new("RGB", SIZE, TAKEN_FOR[color]) for color in ("green", "red", "blue")]
    return encode(frames[0], image_format, save_all=True, append_images=frames[1:])


def turned(image_format: str) -> bytes:
    """Stored as a landscape, shown as a portrait."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return solid("RGB", TAKEN_FOR["blue"], image_format, exif=exif)


def palette() -> Image.Image:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *TAKEN_FOR["red"]])
    return image


PORTRAIT = SIZE[::-1]
UNUSUAL = {
    "cmyk jpeg": (solid("CMYK", (0, 255, 255, 0), "JPEG"), "red", SIZE),
    "palette png": (encode(palette()), "red", SIZE),
    "palette gif": (encode(palette(), "GIF"), "red", SIZE),
    "progressive jpeg": (
        solid("RGB", TAKEN_FOR["green"], "JPEG", progressive=True), "green", SIZE,
    ),
    "animated gif": (animation("GIF"), "green", SIZE),
    "animated webp": (animation("WEBP"), "green", SIZE),
    "animated png": (animation("PNG"), "green", SIZE),
    "multi-picture jpeg": (animation("MPO"), "green", SIZE),
    "16-bit color": (
        png((2, 2), 16, 2, (b"\0" + struct.pack(">6H", *[0, 0, 60_000] * 2)) * 2), "blue", (2, 2),
    ),
    "turned jpeg": (turned("JPEG"), "blue", PORTRAIT),
    "turned png": (turned("PNG"), "blue", PORTRAIT),
    "turned webp": (turned("WEBP"), "blue", PORTRAIT),
    "turned tiff": (turned("TIFF"), "blue", PORTRAIT),
    "one pixel": (colored("red", (1, 1)), "red", (1, 1)),
    "a thin strip": (colored("red", (1, 5000)), "red", (1, 5000)),
    "a flat strip": (colored("blue", (5000, 1), "JPEG"), "blue", (5000, 1)),
    "broken exif": (solid("RGB", TAKEN_FOR["red"], "JPEG", exif=b"Exif\0\0junk"), "red", SIZE),
}  # fmt: skip


@pytest.mark.parametrize(("data", "label", "size"), UNUSUAL.values(), ids=UNUSUAL.keys())
def test_an_unusual_image_is_answered_with_its_label_and_shown_size(client, data, label, size):
    response = post(client, data)
    assert response.status_code == 200, response.text
    assert top_label(response) == label
    (result,) = response.json()["results"]
    assert (result["width"], result["height"]) == size


def probabilities(response) -> dict[str, float]:
    (result,) = response.json()["results"]
    return {label["label"]: label["probability"] for label in result["labels"]}


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (solid("RGBA", (255, 0, 0, 0), "PNG"), (255, 255, 255)),
        (solid("RGBA", (255, 0, 0, 128), "PNG"), (255, 127, 127)),
        (solid("LA", (0, 0), "PNG"), (255, 255, 255)),
        (solid("I;16", 257 * 90, "PNG"), (90, 90, 90)),
        (solid("1", 1, "TIFF"), (255, 255, 255)),
    ],
    ids=["hidden red", "half of red", "hidden black", "16-bit grey", "one bit"],
)
def test_what_is_seen_is_what_a_viewer_shows_on_white(client, data, seen):
    """The answer is that of a plain image of the colour that is seen."""
    plain = probabilities(post(client, solid("RGB", seen, "PNG")))
    assert probabilities(post(client, data)) == pytest.approx(plain, abs=0.01)

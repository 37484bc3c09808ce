"""Good images of every kind: what the model sees of them, and the size they are shown at."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from images import encode, photo, plain_pixels, png, png_chunk, smooth, tiff
from PIL import Image, ImageOps

from service.contract import Preprocessing
from service.errors import UnsupportedPixelsError
from service.preprocess.decode import DecodedImage, DecodePolicy, decode

SIDE = 8
ORIENTATION = 0x0112
WHITE = (255, 255, 255)
EXACT = DecodePolicy(max_image_pixels=50_000_000, jpeg_draft_ratio=0)


def rule(side: int = SIDE, exif: str = "apply") -> Preprocessing:
    return Preprocessing(
        resize=side, crop=side, interpolation="bilinear", exif=exif, mean=(0, 0, 0), std=(1, 1, 1)
    )


def decoded(data: bytes, side: int = SIDE, **options) -> DecodedImage:
    return decode(data, rule(side, **options), EXACT)


def color_of(data: bytes) -> tuple[int, ...]:
    """The colour of an image of one colour."""
    colors = np.unique(decoded(data).pixels.reshape(-1, 3), axis=0)
    assert len(colors) == 1, colors
    return tuple(int(value) for value in colors[0])


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


# Formats


@pytest.mark.parametrize(
    ("image_format", "options", "allowed"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "packbits"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 16),
        ("JPEG", {"quality": 98, "subsampling": 0}, 6),
        ("JPEG", {"quality": 98, "subsampling": 0, "progressive": True}, 6),
    ],
)
def test_each_format_gives_its_pixels_and_its_size(image_format, options, allowed):
    picture = smooth(40, 24)
    result = decoded(encode(picture, image_format, **options), side=24)
    assert (result.width, result.height) == (40, 24)
    assert result.pixels.dtype == np.uint8
    assert difference(result.pixels, plain_pixels(picture, 24, 24)) <= allowed


def test_a_gif_gives_its_palettes_colors():
    picture = smooth(40, 24).quantize(64)
    result = decoded(encode(picture, "GIF"), side=24)
    assert difference(result.pixels, plain_pixels(picture.convert("RGB"), 24, 24)) <= 1


def test_a_multi_picture_jpeg_gives_its_first_picture():
    """Phones store such files (MPO): two JPEGs in one, named .jpg."""
    pictures = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue")]
    data = encode(pictures[0], "MPO", save_all=True, append_images=pictures[1:], quality=98)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    assert difference(np.array(color_of(data)), np.array((255, 0, 0))) <= 2


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(image_format):
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue", "lime")]
    lossless = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **lossless)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert color_of(data) == (255, 0, 0)


# Pixels


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_grey_becomes_equal_channels(image_format):
    lossless = {"lossless": True} if image_format == "WEBP" else {}
    assert color_of(encode(Image.new("L", (SIDE, SIDE), 77), image_format, **lossless)) == (
        77, 77, 77,
    )  # fmt: skip


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_one_bit_a_pixel_becomes_black_and_white(image_format):
    image = Image.new("1", (SIDE, SIDE), 0)
    image.paste(1, (0, 0, SIDE, SIDE // 2))
    pixels = decoded(encode(image, image_format)).pixels
    assert np.all(pixels[: SIDE // 2] == 255)
    assert np.all(pixels[SIDE // 2 :] == 0)


@pytest.mark.parametrize("marked", [True, False], ids=["adobe", "unmarked"])
def test_a_cmyk_jpeg_becomes_rgb(marked):
    """Stored inverted, as Adobe's programs do and all viewers expect, marked as such or not."""
    data = encode(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "JPEG", quality=98)
    at = data.index(b"\xff\xee\0\x0eAdobe")
    data = data if marked else data[:at] + data[at + 16 :]
    assert difference(np.array(color_of(data)), np.array((255, 0, 0))) <= 3


def test_a_cmyk_tiff_becomes_rgb():
    assert color_of(encode(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "TIFF")) == (
        255, 0, 0,
    )  # fmt: skip


def palette_image() -> Image.Image:
    """Left half palette entry 0, red; right half entry 1, blue."""
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (SIDE // 2, 0, SIDE, SIDE))
    return image


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_becomes_its_colors(image_format):
    pixels = decoded(encode(palette_image(), image_format)).pixels
    assert tuple(pixels[0, 0]) == (255, 0, 0)
    assert tuple(pixels[0, -1]) == (0, 0, 255)


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(image_format):
    pixels = decoded(encode(palette_image(), image_format, transparency=0)).pixels
    assert tuple(pixels[0, 0]) == WHITE
    assert tuple(pixels[0, -1]) == (0, 0, 255)


def test_a_half_transparent_palette_entry_is_mixed_with_white():
    pixels = decoded(encode(palette_image(), "PNG", transparency=bytes([128, 255]))).pixels
    assert difference(pixels[0, 0], np.array((255, 127, 127))) <= 1
    assert tuple(pixels[0, -1]) == (0, 0, 255)


@pytest.mark.parametrize(
    ("image_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]
)
@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 0), WHITE),
        ("LA", (0, 128), (127, 127, 127)),
        ("LA", (90, 255), (90, 90, 90)),
    ],
)
def test_alpha_is_composited_on_white(image_format, options, mode, value, expected):
    """The colour that an editor left under a fully transparent pixel is not seen."""
    if image_format == "WEBP":
        options = options | {"exact": True}
    data = encode(Image.new(mode, (SIDE, SIDE), value), image_format, **options)
    assert difference(np.array(color_of(data)), np.array(expected)) <= 1


def test_a_hidden_color_does_not_bleed_into_its_neighbours():
    """Compositing comes before resizing: black under alpha 0 would darken the edge."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 32, 64))
    assert color_of(encode(image)) == WHITE


def row(*values: int, code: str = "B") -> bytes:
    """A PNG row without a filter."""
    return b"\0" + struct.pack(f">{len(values)}{code}", *values)


@pytest.mark.parametrize(
    ("bits", "color_type", "pixels", "transparent", "expected"),
    [
        (8, 2, row(*[10, 20, 30] * SIDE), (10, 20, 30), WHITE),
        (8, 2, row(*[10, 20, 30] * SIDE), (10, 20, 31), (10, 20, 30)),
        (8, 0, row(*[10] * SIDE), (10,), WHITE),
        (4, 0, row(*[0x33] * (SIDE // 2)), (3,), WHITE),
        (4, 0, row(*[0x33] * (SIDE // 2)), (2,), (51, 51, 51)),
        (2, 0, row(*[0b01010101] * (SIDE // 4)), (1,), WHITE),
        (1, 0, row(0), (0,), WHITE),
        (1, 0, row(0), (1,), (0, 0, 0)),
        (16, 0, row(*[1000] * SIDE, code="H"), (1000,), WHITE),
        (16, 0, row(*[1000] * SIDE, code="H"), (1001,), (4, 4, 4)),
        (16, 2, row(*[1000, 2000, 3000] * SIDE, code="H"), (1000, 2000, 3000), WHITE),
    ],
)
def test_a_pngs_transparent_color_becomes_white(bits, color_type, pixels, transparent, expected):
    """At each depth: the value is in the file's bits, not in the eight of the decoded pixels."""
    chunk = png_chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    assert color_of(png((SIDE, SIDE), bits, color_type, pixels * SIDE, chunk)) == expected


LEVELS = [
    (0, 0),
    (128, 0),
    (129, 1),
    (257 * 77, 77),
    (32768, 128),
    (65535 - 128, 255),
    (65535, 255),
]


@pytest.mark.parametrize(("level", "expected"), LEVELS)
def test_16_bit_grey_is_rescaled(level, expected):
    """Rounded, not clipped at 255, in PNG and in TIFF of both byte orders, packed or not."""
    grey = np.full((SIDE, SIDE), level, np.uint16)
    little, big = grey.astype("<u2").tobytes(), grey.astype(">u2").tobytes()
    of = {"width": SIDE, "height": SIDE, "bits": [16], "photometric": 1}
    for data in (
        encode(Image.fromarray(grey), "PNG"),
        encode(Image.fromarray(grey), "TIFF"),
        encode(Image.fromarray(grey), "TIFF", compression="tiff_lzw"),
        tiff(little, "<", **of),
        tiff(big, ">", **of),
    ):
        assert color_of(data) == (expected,) * 3


def test_a_16_bit_tiff_whose_zero_is_white_is_turned_round():
    grey = np.full((SIDE, SIDE), 257 * 77, "<u2").tobytes()
    data = tiff(grey, width=SIDE, height=SIDE, bits=[16], photometric=0)
    assert color_of(data) == (255 - 77,) * 3


@pytest.mark.parametrize(
    ("packed", "expected"), [(b"\xff\xff\xff", 255), (b"\x80\x08\x00", 128), (b"\0\0\0", 0)]
)
def test_12_bit_grey_is_rescaled(packed, expected):
    """Two pixels in three bytes; 4095 is white."""
    data = tiff(packed * (SIDE * SIDE // 2), width=SIDE, height=SIDE, bits=[12], photometric=1)
    assert color_of(data) == (expected,) * 3


def test_16_bit_color_is_rescaled():
    values = [60000, 30000, 100] * SIDE
    assert color_of(png((SIDE, SIDE), 16, 2, row(*values, code="H") * SIDE)) == (234, 117, 0)
    pixels = struct.pack(f"<{3 * SIDE}H", *values) * SIDE
    of = {"width": SIDE, "height": SIDE, "bits": [16] * 3, "samples": 3, "photometric": 2}
    assert color_of(tiff(pixels, **of)) == (233, 117, 0), "rounded; of a PNG the high byte"


def test_grey_times_alpha_becomes_grey_on_white():
    """A TIFF's associated alpha: 64 at alpha 128 is a grey of 128, half covered."""
    of = {"width": SIDE, "height": SIDE, "bits": [8, 8], "samples": 2, "extra_samples": 1}
    (level, *rest) = color_of(tiff(b"\x40\x80" * SIDE * SIDE, photometric=1, **of))
    assert abs(level - 191) <= 1
    assert rest == [level, level]


@pytest.mark.parametrize(
    "image",
    [Image.new("I", (SIDE, SIDE), 70_000), Image.new("F", (SIDE, SIDE), 0.5)],
    ids=["integers", "floats"],
)
def test_32_bits_a_channel_are_refused(image):
    """Their range is anyone's guess."""
    with pytest.raises(UnsupportedPixelsError, match="32-bit") as refusal:
        decoded(encode(image, "TIFF"))
    assert (refusal.value.status, refusal.value.code) == (422, "unsupported_pixels")


# Orientation

SHOWN = (48, 32)
BACK = {  # how a picture is stored so that it is shown as it is
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
TURNABLE = [
    ("JPEG", {"quality": 98, "subsampling": 0}),
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
]


def stored(picture: Image.Image, orientation: int) -> Image.Image:
    turn = BACK.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("image_format", "options"), TURNABLE)
def test_an_image_is_turned_as_a_viewer_shows_it(image_format, options, orientation):
    """Once, in each format that can carry an orientation, and the size is the shown one."""
    picture = smooth(*SHOWN, seed=3)
    data = encode(stored(picture, orientation), image_format, exif=exif_of(orientation), **options)
    result = decoded(data, side=16)
    assert (result.width, result.height) == SHOWN
    assert difference(result.pixels, plain_pixels(picture, 16, 16)) <= 6
    with Image.open(io.BytesIO(data)) as image:
        viewed = ImageOps.exif_transpose(image).convert("RGB")
    assert viewed.size == SHOWN
    assert difference(result.pixels, plain_pixels(viewed, 16, 16)) <= 1


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
@pytest.mark.parametrize(("image_format", "options"), TURNABLE)
def test_a_model_that_ignores_exif_sees_the_image_as_stored(image_format, options, orientation):
    """A TIFF too, which Pillow turns by itself."""
    image = stored(smooth(*SHOWN, seed=3), orientation)
    data = encode(image, image_format, exif=exif_of(orientation), **options)
    result = decoded(data, side=16, exif="ignore")
    assert (result.width, result.height) == image.size
    assert difference(result.pixels, plain_pixels(image, 16, 16)) <= 6


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    picture = smooth(*SHOWN)
    result = decoded(encode(picture, exif=exif_of(orientation)), side=16)
    assert difference(result.pixels, plain_pixels(picture, 16, 16)) == 0


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF directory",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0" + exif_of(6).tobytes()[6:20],
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0sideways",
    ],
    ids=["empty", "garbage", "points outside", "cut off", "text as orientation"],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_spoil_a_good_image(image_format, exif):
    picture = smooth(*SHOWN)
    data = encode(picture, image_format, exif=exif, quality=98)
    result = decoded(data, side=16)
    assert (result.width, result.height) == SHOWN
    assert difference(result.pixels, plain_pixels(picture, 16, 16)) <= 16


# Sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_tiny_images_and_thin_strips_are_answered(image_format, size):
    result = decoded(encode(Image.new("RGB", size, "white"), image_format), side=224)
    assert (result.width, result.height) == size
    assert result.pixels.shape == (224, 224, 3)
    assert result.pixels.min() >= 254


def test_an_image_of_just_the_allowed_pixels_is_answered():
    policy = DecodePolicy(max_image_pixels=600, jpeg_draft_ratio=4)
    assert decode(encode(smooth(30, 20)), rule(), policy).width == 30


# Decoding a JPEG at reduced size


def drafted(data: bytes, ratio: float, side: int = 64) -> np.ndarray:
    return decode(data, rule(side), DecodePolicy(50_000_000, ratio)).pixels


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_a_jpeg_is_reduced_only_while_enough_pixels_remain(ratio):
    """At `ratio` x 2 times the needed size it is decoded at half size, just below it whole."""
    side = 16
    noise = np.random.default_rng(0).integers(0, 256, (side * ratio * 2,) * 2 + (3,))
    image = Image.fromarray(noise.astype(np.uint8))
    large = encode(image, "JPEG", quality=95)
    small = encode(image.crop((1, 1, *image.size)), "JPEG", quality=95)
    assert difference(drafted(large, ratio, side), drafted(large, 0, side)) > 0
    assert difference(drafted(small, ratio, side), drafted(small, 0, side)) == 0


def test_a_multi_picture_jpeg_is_reduced_too():
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    data = encode(image, "MPO", save_all=True, append_images=[image.copy()], quality=95)
    assert difference(drafted(data, 4, 16), drafted(data, 0, 16)) > 0


def test_other_formats_are_never_reduced():
    data = encode(photo(600, 450), "WEBP")
    assert difference(drafted(data, 2, 16), drafted(data, 0, 16)) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1101, 827), (1104, 832)])
def test_reducing_moves_no_pixel_of_a_photo_by_more_than_10_levels(size, orientation):
    """Whatever its orientation, and where the size is no multiple of the reduction."""
    data = encode(stored(photo(*size), orientation), "JPEG", quality=90, exif=exif_of(orientation))
    reduced, whole = drafted(data, 4), drafted(data, 0)
    moved = np.abs(reduced.astype(int) - whole)
    print(f"largest difference {moved.max()}, mean {moved.mean():.3f}")  # noqa: T201 - pytest -rP
    assert 0 < moved.max() <= 10
    assert moved.mean() < 0.5

"""Encoded images for tests."""

from __future__ import annotations

import io

from PIL import Image

COLOR_VALUES = {"red": (220, 30, 20), "green": (25, 210, 40), "blue": (10, 40, 230)}


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def colored(
    color: str = "red", size: tuple[int, int] = (20, 12), image_format: str = "PNG"
) -> bytes:
    """An image of one colour, which the color model names."""
    return encode(Image.new("RGB", size, COLOR_VALUES[color]), image_format)


def top_label(response) -> str:
    return response.json()["results"][0]["labels"][0]["label"]

"""Both clients against a real server: the same calls, the same results."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from images import COLOR_VALUES, colored, photo
from PIL import Image
from results import best

from service.client import AsyncClient, Client
from service.errors import (
    NotAnImageError,
    TopKError,
    UnknownModelError,
    UnreachableError,
    UnreadableImageError,
)

RED, GREEN = colored("red"), colored("green")


class Blocking:
    """Calls an `AsyncClient` as if it were a `Client`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            async with AsyncClient(self._url) as client:
                called = getattr(client, name)(*args, **options)
                if name == "classify_many":
                    return [result async for result in called]
                return await called

        return lambda *args, **options: asyncio.run(call(*args, **options))


@pytest.fixture(params=["sync", "async"])
def ask(request, client) -> Iterator[Client | Blocking]:
    url = str(client.base_url)
    if request.param == "async":
        yield Blocking(url)
        return
    with Client(url) as made:
        yield made


def test_an_image_may_be_bytes_a_file_a_picture_or_an_array(ask, tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(RED)
    array = np.full((9, 7, 3), COLOR_VALUES["red"], np.uint8)
    for image in (RED, bytearray(RED), path, str(path), Image.fromarray(array), array):
        found = ask.classify(image, top_k=1)
        assert (found.best.label, found.model, found.version) == ("red", "color", 1)
        assert len(found.labels) == 1
    assert (found.width, found.height) == (7, 9)


def test_a_picture_is_seen_as_upright_as_its_file(ask, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    path = tmp_path / "turned.jpg"
    photo(40, 20).save(path, exif=exif)
    with Image.open(path) as picture:
        seen = ask.classify(picture)
    assert (seen.width, seen.height) == (20, 40)
    assert (seen.width, seen.height) == (ask.classify(path).width, ask.classify(path).height)


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2, 3)), np.zeros((0, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)]
)
def test_an_array_of_another_kind_is_refused_with_what_is_allowed(ask, pixels):
    with pytest.raises(UnreadableImageError, match="pixels must be"):
        ask.classify(pixels)


def test_something_else_is_no_image(ask):
    with pytest.raises(TypeError, match="not dict"):
        ask.classify({})


def test_many_images_are_answered_in_order_with_errors_in_their_places(serve, tmp_path):
    """More than a request may hold, in flight together, each with its own fate."""
    url = str(serve(max_images=3).base_url)
    missing = tmp_path / "none.png"
    images = [RED, GREEN, b"no image", missing, RED, b""] * 5
    wanted = ["red", "green", "not_an_image", "unreadable_image", "red", "empty_image"]
    with Client(url, connections=3) as client:
        results = list(client.classify_many(images))
    for found in (results, Blocking(url).classify_many(images)):
        codes = ["empty_image" if c == "empty_body" else c for c in best(found)]
        assert codes == wanted * 5


def test_images_that_all_fail_have_an_error_each(ask):
    found = list(ask.classify_many([b"no image"] * 3))
    assert [type(error) for error in found] == [NotAnImageError] * 3


def test_no_images_have_no_results(ask):
    assert list(ask.classify_many([])) == []


def test_images_are_taken_as_they_are_needed(client):
    """An endless source is no trouble."""
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield RED

    with Client(str(client.base_url), connections=2) as made:
        results = made.classify_many(endless())
        assert best([next(results)]) == ["red"]
        results.close()
    assert taken <= 16 * 5 + 1


def test_a_problem_is_raised_as_the_class_of_its_cause(ask):
    with pytest.raises(NotAnImageError) as caught:
        ask.classify(b"no image")
    error = caught.value
    assert (error.status, error.code) == (415, "not_an_image")
    assert "JPEG" in error.detail
    assert error.request_id
    with pytest.raises(UnknownModelError, match="color"):
        ask.classify(RED, model="nope")
    with pytest.raises(TopKError):
        ask.classify(RED, top_k=4)


def test_what_fails_a_whole_request_is_raised_for_many_images_too(ask):
    with pytest.raises(UnknownModelError):
        list(ask.classify_many([RED, GREEN], model="nope"))


def test_models_limits_and_health_are_told(ask):
    (model,) = ask.models()
    assert (model.name, model.version, model.classes, model.default) == ("color", 1, 3, True)
    assert [label["label"] for label in ask.model("color").labels] == ["red", "green", "blue"]
    with pytest.raises(UnknownModelError):
        ask.model("a/b?c", 2)
    assert ask.limits().max_images == 32
    health = ask.health()
    assert health.is_ready
    assert health.models[0].name == "color"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_or_url_that_can_not_be_one_is_refused_at_once(kind):
    """A connection would not show what is wrong, and its error would show the key."""
    with pytest.raises(ValueError, match="visible ASCII") as refused:
        kind(api_key="shop.secret\n")
    assert "secret" not in str(refused.value)
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1", "http://a:port"):
        with pytest.raises(ValueError, match="url"):
            kind(url)


def test_a_service_that_is_away_is_told_within_the_timeout():
    with Client("http://127.0.0.1:1", timeout=0.3) as client, pytest.raises(UnreachableError):
        client.classify(RED)


def test_importing_it_needs_neither_an_engine_nor_a_web_framework():
    code = (
        "import sys; import service.client; "
        "print([m for m in ('onnxruntime', 'fastapi', 'starlette', 'uvicorn', 'PIL') "
        "if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"

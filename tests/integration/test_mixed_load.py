"""Good and bad requests all at once: each gets the right answer."""

from __future__ import annotations

import asyncio
import base64
import random
import threading

import httpx
import numpy as np
from images import colored, encode
from PIL import Image
from process import client_of, serving
from waiting import PATIENCE_S
from wire import connect, head

Request = tuple[dict[str, object], int, str]
"""Arguments of a POST, the expected status, and the expected label or code."""


def noisy_jpeg() -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    return encode(Image.fromarray(noise), "JPEG")


def every_kind() -> list[Request]:
    good: list[Request] = [
        ({"content": colored(color, image_format=kind)}, 200, color)
        for color in ("red", "green", "blue")
        for kind in ("JPEG", "PNG", "WEBP", "BMP")
    ]
    blue = base64.b64encode(colored("blue")).decode()
    good += [
        ({"files": [("files", colored("green")), ("files", b"bad")]}, 200, "green"),
        ({"json": {"images": [{"data": blue}, {"data": "?"}]}}, 200, "blue"),
    ]
    jpeg = {"Content-Type": "image/jpeg"}
    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    as_json = {"Content-Type": "application/json"}
    bad: list[Request] = [
        ({"content": b"", "headers": jpeg}, 400, "empty_body"),
        ({"content": b"no image at all", "headers": jpeg}, 415, "not_an_image"),
        ({"content": noisy_jpeg()[:-300], "headers": jpeg}, 422, "truncated_image"),
        ({"content": colored(), "headers": {"Content-Type": "text/html"}},
         415, "unsupported_media_type"),
        ({"content": bytes(200_001), "headers": jpeg}, 413, "body_too_large"),
        ({"content": colored("red", (400, 400)), "headers": jpeg}, 413, "image_too_large"),
        ({"content": colored(), "params": {"model": "nope"}}, 404, "unknown_model"),
        ({"content": colored(), "params": {"top_k": 99}}, 400, "top_k_out_of_range"),
        ({"files": [("files", colored())] * 5}, 413, "too_many_images"),
        ({"content": b"--b\r\nnonsense", "headers": multipart}, 400, "malformed_multipart"),
        ({"content": b'{"images": [', "headers": as_json}, 400, "malformed_json"),
        ({"json": {"images": []}}, 400, "no_images"),
        ({"json": {"images": [{"data": "?"}]}}, 422, "invalid_base64"),
    ]  # fmt: skip
    return good + bad


def code_or_label(body: dict) -> str:
    return body["code"] if "code" in body else body["results"][0]["labels"][0]["label"]


async def post_all(url: str, requests: list[Request]) -> list[tuple[int, str]]:
    limits = httpx.Limits(max_connections=len(requests))
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE_S) as client:

        async def post(arguments: dict) -> tuple[int, str]:
            answer = await client.post("/v1/classify", **arguments)
            return answer.status_code, code_or_label(answer.json())

        return await asyncio.gather(*(post(arguments) for arguments, _, _ in requests))


def leave_early(url: str, times: int) -> None:
    """Connect, send part or all of a request, and disconnect."""
    body = colored("red")
    request = head(Content_Length=len(body)) + body
    for cut in range(times):
        with connect(url) as connection:
            connection.sendall(request[: len(request) * (cut + 1) // times])


def test_200_concurrent_good_and_bad_requests_each_get_their_own_answer(model_folder):
    """Some clients disconnect in the middle; afterwards nothing is held any more."""
    kinds = every_kind()
    requests = [kinds[i % len(kinds)] for i in range(200)]
    random.Random(7).shuffle(requests)
    limits = ["--max-body-bytes", 200_000, "--max-image-pixels", 100_000, "--max-images", 4]
    with serving("--models", model_folder, *limits) as server, client_of(server) as client:
        leaving = threading.Thread(target=leave_early, args=(server.url, 40))
        leaving.start()
        answers = asyncio.run(post_all(server.url, requests))
        leaving.join()
        assert answers == [(status, said) for _, status, said in requests]

        while "resnet_serve_inflight_bytes 0.0" not in client.get("/metrics").text:
            pass
        (model,) = client.get("/health").json()["models"]
        assert model["state"] == "ready"
        assert model["queue"]["images"] == 0
        assert client.get("/livez").status_code == 200

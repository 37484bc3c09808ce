"""Right answers, and the check of every answer against them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from service.bench.errors import ReferenceAnswerError, TargetError
from service.bench.load import OK
from service.bench.target import Target
from service.bench.wire import Answer, SerialClient

WRONG_ANSWER = "wrong_answer"
TOLERANCE = 1e-3
"""How far the best label's probability may be off.

Batches of different sizes are computed in a different order; the rounding moves it by millionths.
"""

CONTENT_TYPE = "application/octet-stream"
"""The server looks at the content, never at this."""

_TIMINGS = b',"timings_ms"'

Best = tuple[str, float]
"""Label id and probability."""


class Expected(NamedTuple):
    """The most probable label of an image, and the one after it where it is known."""

    first: Best
    second: Best | None


class Checker:
    """Judges answers: kind `ok`, `wrong_answer`, or the code of the server's error."""

    def __init__(self, expected: Sequence[Expected]) -> None:
        self._expected = expected
        # An answer that was right, up to its timings: most answers are equal to it byte for byte,
        # and comparing costs a fiftieth of reading JSON.
        self._right: dict[int, bytes] = {}

    def __call__(self, image: int, answer: Answer) -> str:
        """Judge the answer to the image of that index."""
        if answer.status != 200:
            return error_code(answer)
        right = self._right.get(image)
        if right is not None and answer.body.startswith(right):
            return OK
        if not agrees(self._expected[image], answer.body):
            return WRONG_ANSWER
        text, timings, _ = answer.body.partition(_TIMINGS)
        if timings:
            self._right[image] = text + timings
        return OK


def agrees(expected: Expected, body: bytes) -> bool:
    """Tell whether an answer's best label and probability are the expected ones."""
    try:
        (label, probability), *_ = best_labels(body)
    except (ValueError, KeyError, IndexError, TypeError):
        return False
    first, second = expected
    if label == first[0]:
        return abs(probability - first[1]) <= TOLERANCE
    # Two labels as probable as each other may change places by rounding.
    if second is None:
        return False
    tie = label == second[0] and first[1] - second[1] <= TOLERANCE
    return tie and abs(probability - second[1]) <= TOLERANCE


def best_labels(body: bytes) -> list[Best]:
    """Read an answer of one image; raises ValueError, KeyError, IndexError or TypeError."""
    labels = json.loads(body)["results"][0]["labels"]
    return [(str(label["id"]), float(label["probability"])) for label in labels]


def error_code(answer: Answer) -> str:
    """Give the problem detail's code, or the status where there is none."""
    try:
        return str(json.loads(answer.body)["code"])
    except (ValueError, KeyError, TypeError):
        return f"http_{answer.status}"


async def from_server(
    target: Target,
    images: Sequence[bytes],
    path: str,
    timeout_s: float,
    progress: Callable[[str], None],
) -> list[Expected]:
    """Ask the server for each image, one at a time, while there is no load.

    `path` should ask for two labels; where an answer has one, no tie is allowed for.

    Raises `TargetError` when nothing answers and `ReferenceAnswerError` when it answers an error.
    """
    client = SerialClient(target, timeout_s)
    expected = []
    try:
        for number, image in enumerate(images, 1):
            answer = await client.exchange(target.post(path, image, Content_Type=CONTENT_TYPE))
            if answer.failure:
                raise TargetError(
                    f"--url http://{target.authority}: {answer.failure.replace('_', ' ')}; "
                    "is `resnet-serve serve` running there?"
                )
            expected.append(_expected(answer, number))
            progress(f"reference answers {number}/{len(images)}")
    finally:
        await client.close()
    return expected


def _expected(answer: Answer, number: int) -> Expected:
    if answer.status != 200:
        detail: Any = error_code(answer)
        raise ReferenceAnswerError(
            f"image {number} gets {answer.status} ({detail}) even without load; "
            "send only images that are answered"
        )
    try:
        first, *others = best_labels(answer.body)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ReferenceAnswerError(f"the answer to image {number} is not understood") from error
    return Expected(first, others[0] if others else None)


def from_model_file(
    path: Path, images: Sequence[bytes], progress: Callable[[str], None]
) -> list[Expected]:
    """Decode and run each image in this process, on the CPU.

    Raises `ModelFileError`, or `ReferenceAnswerError` for an image that can't be decoded.
    """
    from service.bench.pipeline import load_pipeline  # noqa: PLC0415 - imports ONNX Runtime
    from service.errors import RequestError  # noqa: PLC0415
    from service.postprocess.top_k import top_k  # noqa: PLC0415

    pipeline = load_pipeline(path)
    labels, expected = pipeline.contract.labels, []
    try:
        for number, image in enumerate(images, 1):
            row = pipeline.engine.run(pipeline.decode(image)[None])[0]
            first, second = ((labels[index].id, p) for index, p in top_k(row, 2))
            expected.append(Expected(first, second))
            progress(f"reference answers {number}/{len(images)}")
    except RequestError as error:
        raise ReferenceAnswerError(f"image {number} has no answer: {error}") from error
    finally:
        pipeline.engine.close()
    return expected

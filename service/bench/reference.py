"""Right answers, and the check of every answer against them."""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from service.bench.errors import ReferenceAnswerError, TargetError
from service.bench.load import CHANGED_LABEL, OK, RIGHT, WRONG_ANSWER
from service.bench.target import Target
from service.bench.wire import (
    BAD_RESPONSE,
    CONNECT_FAILED,
    CONNECTION_LOST,
    TIMEOUT,
    Answer,
    SerialClient,
)

TOLERANCE = 1e-3
"""How far a probability may be off where the server does not show it.

Batches of different sizes are computed in a different order; in float32, the rounding moves it by
millionths.
"""

CONTENT_TYPE = "application/octet-stream"
"""The server looks at the content, never at this."""

_ROUNDING = 1e-6  # of two probabilities that are given to six decimals
_REACH = 0.2  # how far behind the best label others are kept; more for tolerances over half of it
_RIGHT_BODIES = 8  # kept for each image
_TIMINGS = b',"timings_ms"'

_CODE = re.compile(r"(?!http_\d)[a-z0-9_]{1,64}")
_OWN_KINDS = RIGHT | {WRONG_ANSWER, BAD_RESPONSE, CONNECT_FAILED, CONNECTION_LOST, TIMEOUT}

Best = tuple[str, float]
"""Label id and probability."""


class Expected(NamedTuple):
    """The most probable labels of an image: the first, and those after it as far as known."""

    first: Best
    others: tuple[Best, ...] = ()

    def most(self) -> float:
        """Return how probable a label can be at most that is not among them.

        It comes after the last of them, and all probabilities add up to 1.
        """
        probabilities = [self.first[1], *(probability for _, probability in self.others)]
        return min(probabilities[-1], 1 - sum(probabilities) + _ROUNDING * len(probabilities))


class Checker:
    """Judges answers: a kind of `RIGHT`, `wrong_answer`, or the code of the server's error."""

    def __init__(self, expected: Sequence[Expected], tolerance: float = TOLERANCE) -> None:
        self._expected, self._tolerance = expected, tolerance
        # Answers that were right, up to their timings, and of what kind: most answers are equal to
        # one byte for byte, and comparing costs a fiftieth of reading JSON.
        self._right: dict[int, deque[tuple[bytes, str]]] = {}

    def __call__(self, image: int, answer: Answer) -> str:
        """Judge the answer to the image of that index."""
        if answer.status != 200:
            return error_code(answer)
        for right, kind in self._right.get(image, ()):
            if answer.body.startswith(right):
                return kind
        kind = judge(self._expected[image], answer.body, self._tolerance)
        text, timings, _ = answer.body.partition(_TIMINGS)
        if timings and kind in RIGHT:
            kept = self._right.setdefault(image, deque(maxlen=_RIGHT_BODIES))
            kept.append((text + timings, kind))
        return kind


def judge(expected: Expected, body: bytes, tolerance: float) -> str:
    """Return whether an answer's best label and its probability may be as they are.

    Computed right, each probability is off by the tolerance at most. So the best label may be
    another than the reference's only where that leads it by twice the tolerance at most.
    """
    try:
        (label, probability), *_ = best_labels(body)
    except ValueError:
        return WRONG_ANSWER
    first = expected.first
    known = dict([first, *expected.others]).get(label)
    if known is None:  # then what speaks most for the answer, of what it can be
        known = min(expected.most(), probability + tolerance)
    # Written so that NaN is wrong.
    near = abs(probability - known) <= tolerance + _ROUNDING
    tie = first[1] - known <= 2 * tolerance + _ROUNDING
    if not (near and tie):
        return WRONG_ANSWER
    return OK if label == first[0] else CHANGED_LABEL


def best_labels(body: bytes) -> list[Best]:
    """Read an answer of one image; raises `ValueError` for whatever else."""
    try:
        labels = json.loads(body)["results"][0]["labels"]
        found = [(str(label["id"]), float(label["probability"])) for label in labels]
    # An integer may be too large for a float, and brackets too many to be read.
    except (KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("no answer to one image") from error
    if not (found and all(math.isfinite(probability) for _, probability in found)):
        raise ValueError("no answer to one image")
    return found


def error_code(answer: Answer) -> str:
    """Return the problem detail's code, or the status where there is none.

    What looks like no code, or is a kind that is given here, could be taken for something else.
    """
    try:
        code = json.loads(answer.body)["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        code = None
    if isinstance(code, str) and _CODE.fullmatch(code) and code not in _OWN_KINDS:
        return code
    return f"http_{answer.status}"


async def from_server(
    target: Target,
    images: Sequence[bytes],
    path: str,
    timeout_s: float,
    progress: Callable[[str], None],
    tolerance: float = TOLERANCE,
) -> list[Expected]:
    """Ask the server for each image, one at a time, while there is no load.

    `path` should ask for all labels: the more an answer has, the surer others are judged. Those
    are kept that count with the tolerance.

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
            expected.append(_expected(answer, number, tolerance))
            progress(f"reference answers {number}/{len(images)}")
    finally:
        await client.close()
    return expected


def _expected(answer: Answer, number: int, tolerance: float) -> Expected:
    if answer.status != 200:
        raise ReferenceAnswerError(
            f"image {number} gets {answer.status} ({error_code(answer)}) even without load; "
            "send only images that are answered"
        )
    try:
        return _within_reach(best_labels(answer.body), tolerance)
    except ValueError as error:
        raise ReferenceAnswerError(f"the answer to image {number} is not understood") from error


def _within_reach(labels: Sequence[Best], tolerance: float) -> Expected:
    """Leave out labels that no answer can have for its best; they are in order.

    The first that is out of reach stays: it tells that those after it are too.
    """
    first, *others = labels
    reach = max(_REACH, 2 * tolerance)
    reached = sum(first[1] - probability <= reach for _, probability in others)
    return Expected(first, tuple(others[: reached + 1]))


def from_model_file(
    path: Path, images: Sequence[bytes], progress: Callable[[str], None]
) -> list[Expected]:
    """Decode and run each image in this process, on the CPU.

    Raises `ModelFileError`, or `ReferenceAnswerError` for an image that can't be decoded.
    """
    from service.bench.pipeline import load_pipeline  # noqa: PLC0415 - imports ONNX Runtime
    from service.engine.base import probabilities  # noqa: PLC0415
    from service.errors import RequestError  # noqa: PLC0415
    from service.postprocess.top_k import top_k  # noqa: PLC0415

    pipeline = load_pipeline(path)
    ids, expected = [label.id for label in pipeline.contract.labels], []
    # Wherever the server may run it: what is in force there is not known yet.
    tolerance = pipeline.contract.loosest_tolerance
    try:
        for number, image in enumerate(images, 1):
            row = probabilities(pipeline.engine, [pipeline.decode(image)])[0]
            labels = [(ids[index], probability) for index, probability in top_k(row, len(row))]
            expected.append(_within_reach(labels, tolerance))
            progress(f"reference answers {number}/{len(images)}")
    except RequestError as error:
        raise ReferenceAnswerError(f"image {number} has no answer: {error}") from error
    finally:
        pipeline.engine.close()
    return expected

"""Reference answers, and the check of every answer against them."""

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
"""How far a probability may be off if the server does not report a tolerance.

Batches of different sizes are computed in a different order; in float32, rounding then changes
probabilities by millionths.
"""

CONTENT_TYPE = "application/octet-stream"
"""Any type for images will do: the server recognises formats by content."""

_ROUNDING = 1e-6  # difference of two probabilities due to rounding to six decimals
_REACH = 0.2  # labels up to this far behind the best are kept; further for large tolerances
_RIGHT_BODIES = 8  # kept per image
_TIMINGS = b',"timings_ms"'
_OF_IMAGES = {413, 415, 422}  # statuses that are about the image, not about the request

_CODE = re.compile(r"(?!http_\d)[a-z0-9_]{1,64}")
_OWN_KINDS = RIGHT | {WRONG_ANSWER, BAD_RESPONSE, CONNECT_FAILED, CONNECTION_LOST, TIMEOUT}

Best = tuple[str, float]
"""A label's id and probability."""


class Expected(NamedTuple):
    """The most probable labels of an image: the first, and the following ones as far as known."""

    first: Best
    others: tuple[Best, ...] = ()
    independent: bool = False
    """Whether the probabilities do not add up to 1."""

    def most(self) -> float:
        """Return the highest possible probability of any other label.

        It is no higher than the last one's and, unless they are independent, all add up to 1.
        """
        probabilities = [self.first[1], *(probability for _, probability in self.others)]
        if self.independent:
            return probabilities[-1]
        return min(probabilities[-1], 1 - sum(probabilities) + _ROUNDING * len(probabilities))


class Checker:
    """Checks answers; returns one of `RIGHT`, `wrong_answer`, or the server's error code."""

    def __init__(self, expected: Sequence[Expected], tolerance: float = TOLERANCE) -> None:
        self._expected, self._tolerance = expected, tolerance
        # Right answers up to their timings, with their kinds. Most answers equal one of them byte
        # for byte, and comparing takes a fiftieth of parsing JSON.
        self._right: dict[int, deque[tuple[bytes, str]]] = {}

    def __call__(self, image: int, answer: Answer) -> str:
        """Return the kind of the answer to the image with that index."""
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
    """Return the kind of an answer, by its best label and that label's probability.

    In a right answer, each probability is off by at most the tolerance. So its best label may
    differ from the reference's only if that leads it by at most twice the tolerance.
    """
    try:
        (label, probability), *_ = best_labels(body)
    except ValueError:
        return WRONG_ANSWER
    first = expected.first
    known = dict([first, *expected.others]).get(label)
    if known is None:  # then assume the possible value that favours the answer most
        known = min(expected.most(), probability + tolerance)
    # Written so that NaN is wrong.
    near = abs(probability - known) <= tolerance + _ROUNDING
    tie = first[1] - known <= 2 * tolerance + _ROUNDING
    if not (near and tie):
        return WRONG_ANSWER
    return OK if label == first[0] else CHANGED_LABEL


def best_labels(body: bytes) -> list[Best]:
    """Parse the labels of an answer to one image; raises `ValueError` if it is not one."""
    try:
        labels = json.loads(body)["results"][0]["labels"]
        found = [(str(label["id"]), float(label["probability"])) for label in labels]
    # Integers may be too large for a float, and brackets too deep to parse.
    except (KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("not an answer to one image") from error
    if not (found and all(math.isfinite(probability) for _, probability in found)):
        raise ValueError("not an answer to one image")
    return found


def error_code(answer: Answer) -> str:
    """Return the problem detail's code, or "http_" and the status if it has no valid one.

    Codes that equal one of the kinds assigned here are not valid: they would be ambiguous.
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
    *,
    independent: bool = False,
) -> list[Expected]:
    """Ask the server for each image's answer, one at a time, without load.

    `path` should request all labels: the more there are, the more reliably answers are checked.
    Only labels that matter with this tolerance are kept.

    Raises `TargetError` if nothing answers and `ReferenceAnswerError` if the answer is an error.
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
            found = _expected(answer, number, tolerance)
            expected.append(found._replace(independent=independent))
            progress(f"reference answers {number}/{len(images)}")
    finally:
        await client.close()
    return expected


def _expected(answer: Answer, number: int, tolerance: float) -> Expected:
    if answer.status != 200:
        advice = "; leave out images that the server refuses" if answer.status in _OF_IMAGES else ""
        raise ReferenceAnswerError(
            f"image {number} gets {answer.status} ({error_code(answer)}) even without load{advice}"
        )
    try:
        return _within_reach(best_labels(answer.body), tolerance)
    except ValueError as error:
        raise ReferenceAnswerError(f"the answer to image {number} can't be parsed") from error


def _within_reach(labels: Sequence[Best], tolerance: float) -> Expected:
    """Drop labels, which are sorted, that can't be the best one of any right answer.

    The first of them is kept, as an upper bound for the others.
    """
    first, *others = labels
    reach = max(_REACH, 2 * tolerance)
    reached = sum(first[1] - probability <= reach for _, probability in others)
    return Expected(first, tuple(others[: reached + 1]))


def from_model_file(
    path: Path, images: Sequence[bytes], progress: Callable[[str], None]
) -> list[Expected]:
    """Compute each image's answer in this process, on the CPU.

    Raises `ModelFileError`, or `ReferenceAnswerError` for an image that can't be decoded.
    """
    from service.bench.pipeline import load_pipeline  # noqa: PLC0415 - imports ONNX Runtime
    from service.engine.base import probabilities  # noqa: PLC0415
    from service.errors import RequestError  # noqa: PLC0415
    from service.postprocess.top_k import top_k  # noqa: PLC0415

    pipeline = load_pipeline(path)
    ids, expected = [label.id for label in pipeline.contract.labels], []
    # The server's provider, and so its tolerance, is not known yet.
    tolerance = pipeline.contract.loosest_tolerance
    independent = pipeline.contract.multi_label is not None
    try:
        for number, image in enumerate(images, 1):
            row = probabilities(pipeline.engine, [pipeline.decode(image)])[0]
            labels = [(ids[index], probability) for index, probability in top_k(row, len(row))]
            found = _within_reach(labels, tolerance)
            expected.append(found._replace(independent=independent))
            progress(f"reference answers {number}/{len(images)}")
    except RequestError as error:
        raise ReferenceAnswerError(f"image {number} has no answer: {error}") from error
    finally:
        pipeline.engine.close()
    return expected

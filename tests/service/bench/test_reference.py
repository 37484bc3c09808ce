"""Every answer is judged."""

from __future__ import annotations

import json

import pytest

from service.bench.load import OK
from service.bench.reference import Checker, Expected
from service.bench.wire import Answer

CAT, DOG, COW = "n1", "n2", "n3"
CLEAR = Expected((CAT, 0.7), (DOG, 0.2))
TIE = Expected((CAT, 0.4004), (DOG, 0.4))
ALONE = Expected((CAT, 0.4004), None)


def body(label: str, probability: float) -> bytes:
    labels = [{"id": label, "label": "x", "index": 1, "probability": probability}]
    return json.dumps(
        {"model": "m", "results": [{"labels": labels}], "timings_ms": {"total": 1}},
        separators=(",", ":"),
    ).encode()


def judged(expected: Expected, *bodies: bytes, status: int = 200) -> list[str]:
    check = Checker([expected])
    return [check(0, Answer(0.0, status, each, b"", "")) for each in bodies]


def test_the_expected_label_and_probability_are_right():
    assert judged(CLEAR, body(CAT, 0.7), body(CAT, 0.7), body(CAT, 0.7009)) == [OK] * 3


@pytest.mark.parametrize("other", [body(DOG, 0.7), body(CAT, 0.702), body(DOG, 0.2), b"", b"{}",
                                   b'{"results":[]}', body(CAT, float("nan"))])  # fmt: skip
def test_another_label_or_probability_is_wrong_also_after_a_right_answer(other):
    """The second answer takes the fast way, by comparing bytes."""
    assert judged(CLEAR, other, body(CAT, 0.7), other) == ["wrong_answer", OK, "wrong_answer"]


def test_two_labels_as_probable_as_each_other_may_change_places():
    assert judged(TIE, body(DOG, 0.4), body(COW, 0.4)) == [OK, "wrong_answer"]


def test_where_the_second_label_is_not_known_no_other_is_right():
    assert judged(ALONE, body(CAT, 0.4), body(DOG, 0.4)) == [OK, "wrong_answer"]


def test_an_error_counts_by_its_code_or_else_by_its_status():
    assert judged(CLEAR, b'{"code":"queue_full"}', b"<html>", b"[]", status=503) == [
        "queue_full", "http_503", "http_503",
    ]  # fmt: skip

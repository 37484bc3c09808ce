"""Every answer is judged: right, right with another best label, or wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from color_model import color_contract, write_color_model
from hypothesis import given
from hypothesis import strategies as st
from images import colored

from service.bench.load import CHANGED_LABEL, OK, RIGHT, WRONG_ANSWER
from service.bench.reference import Checker, Expected, from_model_file, judge
from service.bench.wire import Answer

CAT, DOG, COW = "n1", "n2", "n3"
CLEAR = Expected((CAT, 0.7), ((DOG, 0.2),))
TIE = Expected((CAT, 0.401), ((DOG, 0.4), (COW, 0.1)))
ALONE = Expected((CAT, 0.4004))


def body(label: str, probability: float) -> bytes:
    labels = [{"id": label, "label": "x", "index": 1, "probability": probability}]
    return json.dumps(
        {"model": "m", "results": [{"labels": labels}], "timings_ms": {"total": 1}},
        separators=(",", ":"),
    ).encode()


def judged(
    expected: Expected, *bodies: bytes, status: int = 200, tolerance: float = 1e-3
) -> list[str]:
    check = Checker([expected], tolerance)
    return [check(0, Answer(0.0, status, each, b"", "")) for each in bodies]


def test_the_expected_label_and_probability_are_right():
    assert judged(CLEAR, body(CAT, 0.7), body(CAT, 0.7), body(CAT, 0.7009)) == [OK] * 3


@pytest.mark.parametrize("other", [body(DOG, 0.7), body(CAT, 0.702), body(DOG, 0.2), b"", b"{}",
                                   b'{"results":[]}', b"[" * 100_000,
                                   body(CAT, 10**400), body(CAT, float("nan")),
                                   body(COW, float("nan"))])  # fmt: skip
def test_another_label_or_probability_is_wrong_also_after_a_right_answer(other):
    """The second answer takes the fast way, by comparing bytes."""
    assert judged(CLEAR, other, body(CAT, 0.7), other) == [WRONG_ANSWER, OK, WRONG_ANSWER]


def test_the_tolerance_is_the_models():
    off = body(CAT, 0.71)
    assert judged(CLEAR, off, tolerance=0.02) == [OK]
    assert judged(CLEAR, off, tolerance=0.005) == [WRONG_ANSWER]


def test_labels_that_lead_by_twice_the_tolerance_at_most_may_change_places():
    assert judged(TIE, body(DOG, 0.4), body(COW, 0.4)) == [CHANGED_LABEL, WRONG_ANSWER]
    assert judged(TIE, body(DOG, 0.4), tolerance=4e-4) == [WRONG_ANSWER]


def test_a_label_is_compared_with_its_own_probability_not_the_bests():
    """Half a tolerance over the best one's, and more than one over its own."""
    assert judged(TIE, body(DOG, 0.4009), body(DOG, 0.4015)) == [CHANGED_LABEL, WRONG_ANSWER]


def test_a_changed_label_counts_each_time():
    bodies = [body(CAT, 0.401), body(DOG, 0.4)]
    assert judged(TIE, *bodies, *bodies, *bodies) == [OK, CHANGED_LABEL] * 3


def test_many_different_right_answers_stay_right():
    """More than are kept for the fast way."""
    bodies = [body(CAT, 0.7 + i / 1e5) for i in range(50)]
    assert judged(CLEAR, *bodies, *bodies, body(CAT, 0.8)) == [OK] * 100 + [WRONG_ANSWER]


def test_a_label_that_the_reference_does_not_list_is_wrong_only_where_it_must_be():
    """At most it is as probable there as the last listed one, and as what is left of 1."""
    assert judged(ALONE, body(DOG, 0.4)) == [CHANGED_LABEL]
    assert judged(ALONE, body(DOG, 0.3)) == [WRONG_ANSWER], "its lead would be too large"
    assert judged(ALONE, body(DOG, 0.41)) == [WRONG_ANSWER], "it would be the reference's best"
    assert judged(Expected((CAT, 0.9)), body(DOG, 0.9)) == [WRONG_ANSWER], "only 0.1 is left"
    assert judged(TIE, body("n4", 0.4)) == [WRONG_ANSWER], "it comes after the last one"


def test_independent_labels_do_not_add_up_to_1():
    sure = Expected((CAT, 0.9), (), independent=True)
    assert judged(sure, body(DOG, 0.9)) == [CHANGED_LABEL]
    assert judged(sure, body(DOG, 0.95)) == [WRONG_ANSWER]


def as_rounded(row: np.ndarray) -> list[tuple[str, float]]:
    order = np.argsort(-row, kind="stable")
    return [(f"n{i}", round(float(row[i]), 6)) for i in order]


rows = st.lists(st.floats(0.001, 1), min_size=2, max_size=8).map(lambda r: np.array(r) / sum(r))
tolerances = st.sampled_from([1e-4, 1e-3, 0.02])


@given(rows, st.data(), tolerances)
def test_an_answer_within_the_tolerance_is_never_wrong_however_few_labels_are_known(
    row, data, tolerance
):
    """The reference may be cut anywhere, and the answer computed a little differently."""
    off = data.draw(st.lists(st.floats(-1, 1), min_size=len(row), max_size=len(row)))
    answer = as_rounded(row + np.array(off) * tolerance)[0]
    first, *others = as_rounded(row)
    known = Expected(first, tuple(others[: data.draw(st.integers(0, len(others)))]))
    kind = judge(known, body(*answer), tolerance)
    assert kind == (OK if answer[0] == first[0] else CHANGED_LABEL)


@given(rows, st.data(), tolerances)
def test_with_all_labels_known_the_two_rules_decide(row, data, tolerance):
    first, *others = as_rounded(row)
    label, own = data.draw(st.sampled_from([first, *others]))
    probability = own + data.draw(st.floats(-2, 2)) * tolerance
    right = abs(probability - own) <= tolerance and first[1] - own <= 2 * tolerance
    close = 2e-6  # where rounding decides, either is good
    near_a_bound = (
        abs(abs(probability - own) - tolerance) <= close
        or abs(first[1] - own - 2 * tolerance) <= close
    )
    kind = judge(Expected(first, tuple(others)), body(label, probability), tolerance)
    assert near_a_bound or (kind in RIGHT) == right


def test_an_error_counts_by_its_code_or_else_by_its_status():
    assert judged(CLEAR, b'{"code":"queue_full"}', b"<html>", b"[]", status=503) == [
        "queue_full", "http_503", "http_503",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "ok", "changed_label", "wrong_answer", "timeout", "connect_failed", "connection_lost",
        "bad_response", "http_200", "\x1b[31mred", "two\nlines", "Capital", "a" * 65, "", 5,
        None, {},
    ],
)  # fmt: skip
def test_a_code_that_is_none_or_could_be_taken_for_another_kind_is_passed_over(code):
    assert judged(CLEAR, json.dumps({"code": code}).encode(), status=500) == ["http_500"]


def test_an_error_that_is_nested_too_deep_counts_by_its_status():
    assert judged(CLEAR, b"[" * 100_000, status=500) == ["http_500"]


@pytest.mark.parametrize(("tolerance", "known"), [(0.01, 1), (0.6, 2)])
def test_of_a_model_files_labels_those_are_kept_that_its_tolerance_reaches(
    tmp_path, tolerance, known
):
    """Of three. The first that is out of reach stays, and tells that the rest is too."""
    path = tmp_path / "color.onnx"
    tolerances = {"cpu": {"fp32": 0.01}, "cuda": {"fp32": tolerance}}
    write_color_model(path, color_contract(tolerances=tolerances))
    (expected,) = from_model_file(path, [colored("red")], lambda _: None)
    assert len(expected.others) == known

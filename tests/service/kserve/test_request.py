"""What a request's parameters ask for: its deadline, its priority, its classes."""

from __future__ import annotations

import pytest

from service.batching.ticket import Priority
from service.errors import (
    InvalidInferError,
    InvalidPriorityError,
    InvalidTimeoutError,
    SharedMemoryError,
)
from service.inference.deadline import RequestDeadline
from service.kserve.request import check_parameters, classes_wanted, due_by

ARRIVAL = 100.0
DEFAULT = RequestDeadline(ARRIVAL + 30, 30_000)


@pytest.mark.parametrize(
    ("timeout", "stated", "seconds"),
    [
        (0, False, 30),
        (0, True, 30),
        (2_000_000, False, 2),
        (2_000_000, True, 2),
        (60_000_000, False, 60),  # longer than the default, which is only for those who don't say
        (60_000_000, True, 30),  # but not than what the client has said elsewhere
    ],
)
def test_the_earliest_deadline_that_the_client_states_counts(timeout, stated, seconds):
    due = due_by({"timeout": timeout}, DEFAULT, ARRIVAL, stated=stated)
    assert due.deadline == ARRIVAL + seconds
    assert due.timeout_ms == seconds * 1000


@pytest.mark.parametrize(
    ("priority", "before", "expected"),
    [
        (0, Priority.HIGH, Priority.HIGH),
        (0, Priority.LOW, Priority.LOW),  # as the header said
        (1, Priority.LOW, Priority.HIGH),
        (2, Priority.HIGH, Priority.LOW),
        (2**63, Priority.HIGH, Priority.LOW),
    ],
)
def test_priority_one_is_the_highest_and_zero_the_default(priority, before, expected):
    default = RequestDeadline(ARRIVAL + 30, 30_000, before)
    assert due_by({"priority": priority}, default, ARRIVAL, stated=False).priority is expected


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, None, 2**80])
def test_a_timeout_that_is_none_is_refused(value):
    with pytest.raises(InvalidTimeoutError, match="microseconds"):
        due_by({"timeout": value}, DEFAULT, ARRIVAL, stated=False)


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, None])
def test_a_priority_that_is_none_is_refused(value):
    with pytest.raises(InvalidPriorityError, match="whole number"):
        due_by({"priority": value}, DEFAULT, ARRIVAL, stated=False)


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, None])
def test_a_number_of_classes_that_is_none_is_refused(value):
    with pytest.raises(InvalidInferError, match="how many classes"):
        classes_wanted({"classification": value})


def test_parameters_that_would_change_the_answer_are_refused_and_others_ignored():
    check_parameters({"note": [1], "sequence_id": 0, "sequence_end": False})
    for name in ("sequence_id", "sequence_start", "triton_request"):
        with pytest.raises(InvalidInferError):
            check_parameters({name: 1})
    with pytest.raises(SharedMemoryError):
        check_parameters({"shared_memory_region": "r"})

"""The gates: whole or not at all, and everything is given back."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.admission import ByteGate, ImageGate
from service.errors import InflightBytesError, QueueFullError


def test_a_request_is_admitted_whole_or_refused_whole():
    gate = ImageGate(limit=4)
    with gate.admit(3):
        with pytest.raises(QueueFullError, match="max_queue"), gate.admit(2):
            pass
        assert gate.admitted == 3
        with gate.admit(1):
            assert gate.admitted == 4
    assert gate.admitted == 0


def test_places_are_given_back_when_the_request_fails():
    gate = ImageGate(limit=1)
    with pytest.raises(RuntimeError), gate.admit(1):
        raise RuntimeError
    assert gate.admitted == 0


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 20))
def test_the_image_gate_never_holds_more_than_its_limit(requests, limit):
    gate = ImageGate(limit)
    with contextlib.ExitStack() as stack:
        expected = 0
        for images in requests:
            try:
                stack.enter_context(gate.admit(images))
                expected += images
            except QueueFullError:
                assert expected + images > limit
            assert gate.admitted == expected <= limit
    assert gate.admitted == 0


def test_the_byte_gate_refuses_what_would_pass_its_limit_and_holds_none_of_it():
    gate = ByteGate(limit=10)
    gate.take(7)
    with pytest.raises(InflightBytesError, match="max_inflight_bytes"):
        gate.take(4)
    gate.take(3)
    gate.give_back(10)
    assert gate.held == 0

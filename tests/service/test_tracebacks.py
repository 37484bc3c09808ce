"""Errors that hold nothing of what they passed."""

from __future__ import annotations

import gc
import weakref

import pytest

from service.errors import CorruptImageError
from service.tracebacks import forget_frames


class Pixels:
    """Stands for what a frame holds."""


def fail(pixels: Pixels) -> None:
    try:
        int("broken data")
    except ValueError:
        try:
            _ = 1 / 0
        except ZeroDivisionError as error:
            raise CorruptImageError("corrupt") from error


def caught(pixels: Pixels) -> Exception:
    try:
        fail(pixels)
    except CorruptImageError as error:
        forget_frames(error)
        return error
    raise AssertionError


def test_nothing_of_the_frames_stays_along_causes_and_contexts():
    gc.disable()
    try:
        pixels = Pixels()
        there = weakref.ref(pixels)
        error = caught(pixels)
        del pixels
        assert there() is None
    finally:
        gc.enable()
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert isinstance(error.__cause__.__context__, ValueError)


def test_a_defects_traceback_stays_as_text_until_it_is_logged():
    def defect() -> None:
        raise ZeroDivisionError("a defect")

    for logged in (False, True):
        with pytest.raises(ZeroDivisionError) as raised:
            defect()
        forget_frames(raised.value, logged=logged)
        notes = "\n".join(getattr(raised.value, "__notes__", []))
        assert ("in defect" in notes) == (not logged)


def test_an_error_that_is_raised_again_and_again_does_not_grow():
    error = RuntimeError("always the same")
    for _ in range(50):
        try:
            raise error
        except RuntimeError:
            forget_frames(error)
    assert len("".join(error.__notes__)) < 1000


def test_a_defect_with_a_cause_tells_both():
    """What it begins with is the cause's traceback."""

    def defect() -> None:
        try:
            int("x")
        except ValueError as cause:
            raise RuntimeError("the defect") from cause

    with pytest.raises(RuntimeError) as raised:
        defect()
    for _ in range(2):
        forget_frames(raised.value)
    (note,) = raised.value.__notes__
    assert "invalid literal" in note
    assert "the defect" in note


def test_errors_that_know_each_other_end():
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    forget_frames(one)
    assert one.__traceback__ is None

"""SIGINT and SIGTERM end a block, whatever is done with the exception."""

from __future__ import annotations

import contextlib
import signal
import sys
import time

import pytest

from model_export.interrupts import Interrupts


class Swallowing:
    """Python ignores what a destructor raises, and prints it."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def interrupted_in_a_destructor() -> bool:
    value = Swallowing()
    del value
    return True  # nothing was raised


def test_what_was_swallowed_is_raised_again(monkeypatch: pytest.MonkeyPatch):
    """Once, and once more where that was swallowed too."""
    monkeypatch.setattr("model_export.interrupts._AGAIN_S", 0.05)
    interrupts, times = Interrupts(), 0
    with contextlib.suppress(KeyboardInterrupt), interrupts:
        assert interrupted_in_a_destructor()
        while True:
            try:
                time.sleep(5)
            except KeyboardInterrupt:
                times += 1
                if times == 2:
                    raise
    assert times == 2
    assert interrupts.received is signal.SIGTERM


def test_what_was_swallowed_is_raised_again_at_once_and_not_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Not only when the block does not end."""
    monkeypatch.setattr("model_export.interrupts._AGAIN_S", 1000)
    monkeypatch.setattr("sys.unraisablehook", sys.__unraisablehook__)
    ended = False
    with contextlib.suppress(KeyboardInterrupt), Interrupts():
        assert interrupted_in_a_destructor()
        time.sleep(5)
        ended = True
    assert not ended
    assert capsys.readouterr().err == ""
    assert sys.unraisablehook is sys.__unraisablehook__


def test_other_errors_in_destructors_are_still_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """As without the block."""

    class Failing:
        def __del__(self) -> None:
            raise ZeroDivisionError

    monkeypatch.setattr("sys.unraisablehook", sys.__unraisablehook__)
    with Interrupts():
        value = Failing()
        del value
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_second_signal_does_not_cut_the_end_short():
    """What is cleaned up after the first one is cleaned up."""
    cleaned = False
    with contextlib.suppress(KeyboardInterrupt), Interrupts() as interrupts:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned = True
    assert cleaned
    assert interrupts.received is signal.SIGINT


def test_after_the_block_nothing_is_left(monkeypatch: pytest.MonkeyPatch):
    """No alarm comes later."""
    monkeypatch.setattr("model_export.interrupts._AGAIN_S", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    with contextlib.suppress(KeyboardInterrupt), Interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_without_a_signal_nothing_is_received():
    with Interrupts() as interrupts:
        pass
    assert interrupts.received is None

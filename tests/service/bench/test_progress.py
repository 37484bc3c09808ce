"""How far a benchmark is, on a terminal and in a file."""

from __future__ import annotations

import io

import pytest

from service.bench import limits
from service.bench.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_on_a_terminal_one_line_is_written_over():
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, clock)
    progress.show("first")
    progress.show("too soon")
    clock.now += 0.3
    progress.show("second " + "x" * 200)
    progress.clear()
    assert "too soon" not in stream.getvalue()
    assert "\n" not in stream.getvalue()
    _, first, second, end = stream.getvalue().split("\r\x1b[K")
    assert (first, second[:7], len(second), end) == ("first", "second ", 100, "")


def test_elsewhere_there_is_a_plain_line_every_ten_seconds():
    """And none where it is over sooner."""
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    for second in range(25):
        clock.now = 100.0 + second
        progress.show(f"after {second} s")
    progress.clear()
    assert stream.getvalue() == "after 10 s\nafter 20 s\n"


def test_nobody_who_reads_it_is_no_reason_to_stop():
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = Progress(Gone())
    progress.show("first")
    progress.clear()


def test_the_limits_say_how_far_they_are_and_how_long_it_will_take():
    clock, shown = Clock(), list[str]()

    def measure(case: dict[str, object]) -> float:
        clock.now += 2
        return 1.0

    limits.in_rounds([{}, {}], measure, 2, shown.append, clock)
    assert shown == [
        "0/4", "1/4, about 6 s left", "2/4, about 4 s left", "3/4, about 2 s left",
        "4/4, about 0 s left",
    ]  # fmt: skip


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_only_a_terminal_is_told_how_a_load_does(stream):
    assert Progress(stream()).on_terminal == (stream is Terminal)

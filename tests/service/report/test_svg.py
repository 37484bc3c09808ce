"""Plots are well-formed, whatever they are given."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from service.report.svg import Line, bar_plot, line_plot

HALF_EMPTY = Line("p99 <ms>", [(0, 1.0), (1, None), (2, 3.0), (3, 4.0)])


def parsed(plot: str) -> ET.Element:
    return ET.fromstring(f"<div>{plot}</div>")  # noqa: S314 - our own


def points(plot: str) -> list[list[tuple[float, float]]]:
    return [
        [
            (float(x), float(y))
            for x, y in (pair.split(",") for pair in line.attrib["points"].split())
        ]
        for line in parsed(plot).iter("polyline")
    ]


def test_a_line_has_a_gap_where_there_is_no_value():
    assert [len(piece) for piece in points(line_plot([HALF_EMPTY], "s", "ms"))] == [1, 2]


def test_larger_values_are_drawn_further_right_and_higher():
    plot = line_plot([Line("", [(1, 1.0), (10, 2.0), (100, 3.0)])], "x", "y", log_x=True)
    ((a, b, c),) = points(plot)
    assert a[0] < b[0] < c[0]
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2), "a logarithmic axis"
    assert a[1] > b[1] > c[1]


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0], [1e-9, 1e9], [5e-324], [5.0]])
def test_odd_ranges_are_drawn(values):
    parsed(line_plot([Line("a", list(enumerate(values)))], "x", "y", log_x=True))
    parsed(line_plot([Line("a", list(enumerate(values)))], "x", "y"))
    parsed(bar_plot([str(v) for v in values], [("a", values)], "x", "y"))


def test_bars_are_stacked():
    plot = bar_plot(["one"], [("a", [2.0]), ("b", [1.0])], "x", "y")
    low, high = parsed(plot).iter("rect")
    assert float(high.attrib["y"]) + float(high.attrib["height"]) == pytest.approx(
        float(low.attrib["y"]), abs=0.2
    )
    assert float(low.attrib["height"]) == pytest.approx(2 * float(high.attrib["height"]), abs=0.3)

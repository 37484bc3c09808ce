"""Plots as inline SVG: lines, bars and stacked bars, without libraries, scripts or other files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 560, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 16, 46  # margins, in pixels
_TICKS = 5
_LEAST_SPAN = 1e-12  # a range of an axis that is smaller counts as empty


class Line(NamedTuple):
    """A named line through points (x, y); a y of None leaves a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]


class _Axis:
    """Maps values to pixels, linearly or logarithmically, with ticks at round numbers."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        low, high = min(values, default=0.0), max(values, default=1.0)
        self._log = log and low > 0 and high > low
        if self._log:
            self._low, self._high = math.log10(low), math.log10(high)
            decades = range(math.floor(self._low), math.ceil(self._high) + 1)
            ticks = [m * 10.0**d for d in decades for m in (1, 2, 5)]
            self.ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        else:
            span = high - min(low, 0.0)
            step = _round_step(span if span > _LEAST_SPAN else 1.0)
            self._low = math.floor(min(low, 0.0) / step) * step
            self._high = max(math.ceil(high / step - 1e-9) * step, self._low + step)
            count = round((self._high - self._low) / step)
            self.ticks = [self._low + i * step for i in range(count + 1)]
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        place = math.log10(value) if self._log else value
        return self._start + (place - self._low) / (self._high - self._low) * (
            self._end - self._start
        )


def _round_step(span: float) -> float:
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if rough <= m * power * (1 + 1e-9))


def line_plot(lines: Sequence[Line], x_title: str, y_title: str, *, log_x: bool = False) -> str:
    """Draw lines on common axes; the y axis starts at 0, or at negative values if there are any."""
    xs = [x for line in lines for x, y in line.points if y is not None]
    ys = [y for line in lines for _, y in line.points if y is not None]
    across = _Axis(xs, _LEFT, _WIDTH - _RIGHT, log=log_x)
    up = _Axis(ys, _HEIGHT - _BOTTOM, _TOP, log=False)
    marks = _grid(up, y_title) + _x_ticks(across, x_title)
    for index, line in enumerate(lines):
        for piece in _pieces(line.points):
            points = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in piece)
            marks.append(f'<polyline class="line c{index % 6}" points="{points}"/>')
            if len(piece) <= 12:
                marks += [
                    f'<circle class="dot c{index % 6}" cx="{across.at(x):.1f}" '
                    f'cy="{up.at(y):.1f}" r="3"><title>{x:g}: {y:.4g}</title></circle>'
                    for x, y in piece
                ]
    return _document(marks, [line.name for line in lines])


def bar_plot(
    groups: Sequence[str], parts: Sequence[tuple[str, Sequence[float]]], x_title: str, y_title: str
) -> str:
    """Draw a bar per group, with its parts (name, value for each group) stacked."""
    totals = [sum(values[i] for _, values in parts) for i in range(len(groups))]
    up = _Axis(totals, _HEIGHT - _BOTTOM, _TOP, log=False)
    slot = (_WIDTH - _LEFT - _RIGHT) / max(len(groups), 1)
    marks = _grid(up, y_title)
    for i, group in enumerate(groups):
        left, base = _LEFT + i * slot + slot * 0.18, 0.0
        for index, (name, values) in enumerate(parts):
            top = up.at(base + values[i])
            marks.append(
                f'<rect class="bar c{index % 6}" x="{left:.1f}" y="{top:.1f}" '
                f'width="{slot * 0.64:.1f}" height="{up.at(base) - top:.1f}">'
                f"<title>{escape(f'{group} {name}')}: {values[i]:.4g}</title></rect>"
            )
            base += values[i]
        marks.append(_text(left + slot * 0.32, _HEIGHT - _BOTTOM + 16, group))
    marks.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_title))
    return _document(marks, [name for name, _ in parts])


def _pieces(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Split a line at its gaps."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]


def _grid(up: _Axis, title: str) -> list[str]:
    marks = []
    for tick in up.ticks:
        y = up.at(tick)
        marks.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        marks.append(_text(_LEFT - 6, y + 4, f"{tick:g}", "end"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    marks.append(
        f'<text text-anchor="middle" transform="translate(13 {middle:.0f}) rotate(-90)">'
        f"{escape(title)}</text>"
    )
    return marks


def _x_ticks(across: _Axis, title: str) -> list[str]:
    marks = [_text(across.at(tick), _HEIGHT - _BOTTOM + 16, f"{tick:g}") for tick in across.ticks]
    marks.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, title))
    return marks


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _document(marks: Sequence[str], names: Sequence[str]) -> str:
    legend = "".join(
        f'<span><i class="key c{index % 6}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
        if name
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(marks)}</svg>'
        f'<p class="legend">{legend}</p>'
    )

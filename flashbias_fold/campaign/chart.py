"""Time by length, as a chart that stays small: of many points, those that lie together are one mark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from flashbias_fold.report.markup import seconds, text, whole

MOST_MARKS = 1500
_WIDE, _HIGH, _LEFT, _BOTTOM, _TOP = 720.0, 320.0, 58.0, 46.0, 10.0
_INSET = 14.0  # between the axes and the outermost points
_MOST_TICKS = 9


class Point(NamedTuple):
    """A job: its tokens and its seconds, both above zero."""

    name: str
    tokens: float
    seconds: float


class _Mark(NamedTuple):
    style: str
    x: float
    y: float
    points: Sequence[Point]


def time_by_length(groups: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """Seconds against tokens on logarithmic axes.

    Args:
        groups: By the class that gives them their colour.
    """
    points = [point for _, found in groups for point in found]
    across = _Scale([point.tokens for point in points], _LEFT, _LEFT + _WIDE)
    up = _Scale([point.seconds for point in points], _TOP + _HIGH, _TOP)
    width, height = _LEFT + _WIDE + _TOP, _TOP + _HIGH + _BOTTOM
    parts = [f'<svg class="scatter" viewBox="0 0 {width:g} {height:g}" role="img">']
    parts.append("<title>Seconds of each job against its tokens</title>")
    for tick in across.ticks:
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP:g}v{_HIGH:g}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_TOP + _HIGH + 18:g}">{tick:g}</text>')
    for tick in up.ticks:
        y = up(tick)
        parts.append(f'<path class="grid" d="M{_LEFT:g} {y:.1f}h{_WIDE:g}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 8:g}" y="{y + 4:.1f}">{tick:g}</text>')
    parts.append(f'<text class="axis" x="{_LEFT + _WIDE / 2:g}" y="{height - 6:g}">tokens</text>')
    middle = _TOP + _HIGH / 2
    parts.append(f'<text class="axis" transform="translate(14 {middle:g}) rotate(-90)">seconds</text>')
    parts += map(_circle, _marks(groups, across, up))
    return "\n".join([*parts, "</svg>"])


class _Scale:
    """From values to places on the page, logarithmically."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        inset = math.copysign(_INSET, end - start)
        self._start, self._end = start + inset, end - inset
        self._low, self._high = min(values, default=1.0), max(values, default=10.0)
        self.ticks = _round_values(self._low, self._high)

    def __call__(self, value: float) -> float:
        if self._high <= self._low:
            return (self._start + self._end) / 2
        share = math.log(value / self._low) / math.log(self._high / self._low)
        return self._start + share * (self._end - self._start)


def _round_values(low: float, high: float) -> list[float]:
    """Round numbers between two values: as many as there is room for."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        values = [float(f"{factor}e{power}") for power in powers for factor in factors]
        between = [value for value in values if low <= value <= high]
        if len(between) <= _MOST_TICKS:
            break
    return between or [low]


def _marks(groups: Sequence[tuple[str, Sequence[Point]]], across: _Scale, up: _Scale) -> list[_Mark]:
    """A mark for each point; where these are too many, for each square of the smallest size that will do."""
    placed = [
        _Mark(style, across(point.tokens), up(point.seconds), [point])
        for style, points in groups
        for point in sorted(points)
    ]
    side = 2.0
    marks = placed
    while len(marks) > MOST_MARKS:
        side *= 1.5
        squares: dict[tuple[str, int, int], list[_Mark]] = {}
        for mark in placed:
            key = (mark.style, math.floor(mark.x / side), math.floor(mark.y / side))
            squares.setdefault(key, []).append(mark)
        marks = [_together(style, found) for (style, _, _), found in squares.items()]
    return marks


def _together(style: str, marks: Sequence[_Mark]) -> _Mark:
    x, y = (
        math.fsum(values) / len(marks) for values in zip(*((mark.x, mark.y) for mark in marks), strict=True)
    )
    return _Mark(style, x, y, [point for mark in marks for point in mark.points])


def _circle(mark: _Mark) -> str:
    tokens = math.fsum(point.tokens for point in mark.points) / len(mark.points)
    taken = math.fsum(point.seconds for point in mark.points) / len(mark.points)
    count = len(mark.points)
    who = text(mark.points[0].name) if count == 1 else f"{count} jobs, on average"
    said = f"<title>{who}: {whole(tokens)} tokens, {seconds(taken)} s</title>"
    radius = 3.5 + 1.2 * math.log10(count)
    place = f'cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{radius:.1f}"'
    return f'<circle class="point {mark.style}" {place}>{said}</circle>'

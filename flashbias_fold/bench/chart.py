"""Line charts on logarithmic axes, as SVG that needs no other file and no other package."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Okabe and Ito's colours, which people with any colour vision tell apart, then two more.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c564b", "#7f7f7f",
    "#6a3d9a",
)  # fmt: skip
_PANEL_W, _PANEL_H = 380.0, 340.0
_LEFT, _GAP, _TOP, _BOTTOM = 64.0, 56.0, 92.0, 54.0
_LEGEND_W, _LEGEND_LINE = 190.0, 20.0
_LETTER_W = 7.0  # of the legend, on average and a little more
_INSET = 18.0  # between the axes and the outermost points
_MOST_LABELS = 12
_STYLE = """\
text { font: 12px system-ui, "Helvetica Neue", Arial, sans-serif; fill: #222 }
.title { font-size: 16px; font-weight: 600 }
.note { fill: #555 }
.panel { font-size: 13px; font-weight: 600 }
.grid { stroke: #e3e3e3; stroke-width: 1 }
.axis { stroke: #444; stroke-width: 1; fill: none }
.line { stroke-width: 2; fill: none; stroke-linejoin: round }
.range { stroke-width: 1.5; opacity: .55 }
"""


@dataclass(frozen=True)
class Point:
    """A value at `x`, with the range that it was found in."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """Points of one name, which has one colour in all panels; a dashed one is a limit and has no marks."""

    name: str
    points: tuple[Point, ...]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines that share their axes."""

    title: str
    lines: list[Line]


def chart(title: str, note: str, x_label: str, y_label: str, panels: list[Panel]) -> str:
    """Panels side by side, one legend. All values are above zero."""
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    looks = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
    looks |= {line.name: "#444" for panel in panels for line in panel.lines if line.dashed}
    dashed = {line.name for panel in panels for line in panel.lines if line.dashed}
    width = (
        _LEFT
        + len(panels) * (_PANEL_W + _GAP)
        + max(_LEGEND_W, 30 + _LETTER_W * max(map(len, names), default=0))
    )
    height = _TOP + max(_PANEL_H, len(names) * _LEGEND_LINE) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
        _text(_LEFT, 28, title, "title"),
        _text(_LEFT, 50, note, "note"),
    ]
    for index, panel in enumerate(panels):
        left = _LEFT + index * (_PANEL_W + _GAP)
        parts += _panel(left, panel, x_label, y_label if index == 0 else "", looks)
    parts += _legend(_LEFT + len(panels) * (_PANEL_W + _GAP) - 24, looks, dashed)
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Scale:
    """From values to places on the page, logarithmically."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if self.high <= self.low:
            return (self.start + self.end) / 2
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def _panel(left: float, panel: Panel, x_label: str, y_label: str, looks: dict[str, str]) -> list[str]:
    right, bottom = left + _PANEL_W, _TOP + _PANEL_H
    points = [point for line in panel.lines for point in line.points]
    parts = [
        _text(left, _TOP - 12, panel.title, "panel"),
        _text(left + _PANEL_W / 2, bottom + 40, x_label, anchor="middle"),
        f'<path class="axis" d="M{left:.1f} {_TOP:.1f}V{bottom:.1f}H{right:.1f}"/>',
    ]
    if y_label:
        middle = _TOP + _PANEL_H / 2
        parts.append(
            f'<text transform="translate({left - 48:.1f} {middle:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )
    if not points:
        return [
            *parts,
            _text(left + _PANEL_W / 2, _TOP + _PANEL_H / 2, "nothing was timed", "note", "middle"),
        ]
    xs = sorted({point.x for point in points})
    x = _Scale(xs[0], xs[-1], left + _INSET, right - _INSET)
    y = _Scale(
        min(point.low for point in points),
        max(point.high for point in points),
        bottom - _INSET,
        _TOP + _INSET,
    )
    for value in _round_values(y.low, y.high):
        parts.append(f'<path class="grid" d="M{left:.1f} {y(value):.1f}H{right:.1f}"/>')
        parts.append(_text(left - 8, y(value) + 4, f"{value:g}", anchor="end"))
    for value in xs[:: math.ceil(len(xs) / _MOST_LABELS)]:
        parts.append(f'<path class="axis" d="M{x(value):.1f} {bottom:.1f}v5"/>')
        parts.append(_text(x(value), bottom + 20, f"{value:g}", anchor="middle"))
    for line in panel.lines:
        parts += _line(line, x, y, looks[line.name])
    return parts


def _line(line: Line, x: _Scale, y: _Scale, colour: str) -> list[str]:
    points = sorted(line.points, key=lambda point: point.x)
    path = "M" + "L".join(f"{x(point.x):.1f} {y(point.y):.1f}" for point in points)
    if line.dashed:
        return [f'<path class="line" stroke="{colour}" stroke-dasharray="5 4" d="{path}"/>']
    parts = [f'<path class="line" stroke="{colour}" d="{path}"/>']
    for point in points:
        place = f"{x(point.x):.1f} {y(point.low):.1f}V{y(point.high):.1f}"
        parts.append(f'<path class="range" stroke="{colour}" d="M{place}"/>')
        parts.append(f'<circle cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="3.2" fill="{colour}"/>')
    return parts


def _legend(left: float, looks: dict[str, str], dashed: Iterable[str]) -> list[str]:
    parts = []
    for index, (name, colour) in enumerate(looks.items()):
        middle = _TOP + 8 + index * _LEGEND_LINE
        dashes = ' stroke-dasharray="5 4"' if name in dashed else ""
        parts.append(f'<path class="line" stroke="{colour}"{dashes} d="M{left:.1f} {middle:.1f}h22"/>')
        if not dashes:
            parts.append(f'<circle cx="{left + 11:.1f}" cy="{middle:.1f}" r="3.2" fill="{colour}"/>')
        parts.append(_text(left + 30, middle + 4, name))
    return parts


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two values; powers alone where these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    between = [value for value in values if low <= value <= high]
    if len(between) > _MOST_LABELS:
        between = [10.0**power for power in powers if low <= 10.0**power <= high]
    return between or [low]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    styled = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{styled}>{escape(text)}</text>'

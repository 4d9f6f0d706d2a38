"""The page's charts, as SVG without a script.

Bars are as wide as the page lets them be: their lengths are per cent, so that text keeps its size on a phone.
Only the ticks of an axis are numbers that the report does not have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from flashbias_fold.report.markup import score, seconds, text

STAGES = ("featurize", "trunk", "diffusion", "confidence", "write")
_BAR_H = 22
_LAYER_H = 16
_SIDE, _LEFT, _BOTTOM, _TOP = 320.0, 52.0, 46.0, 10.0
_TICKS = (1, 2, 2.5, 5, 10)


def stacked_bar(stages: Mapping[str, float], longest: float) -> str:
    """One method's seconds by stage; a bar of `longest` seconds is as wide as there is room."""
    parts, start = [], 0.0
    for stage in STAGES:
        width = 100 * stages[stage] / longest if longest else 0.0
        parts.append(
            f'<rect class="stage {stage}" x="{start:.3f}%" width="{width:.3f}%" height="{_BAR_H}">'
            f"<title>{stage}: {seconds(stages[stage])} s</title></rect>"
        )
        start += width
    return f'<svg class="bar" height="{_BAR_H}" aria-hidden="true">{"".join(parts)}</svg>'


def error_bar(mean: float | None, largest: float | None, longest: float) -> str:
    """A layer's mean error as a bar, its largest as a mark."""
    if not mean or not largest:
        return ""
    end = 100 * largest / longest
    return (
        f'<svg class="bar" height="{_LAYER_H}" aria-hidden="true">'
        f'<line class="whisker" x1="0" x2="{end:.3f}%" y1="{_LAYER_H / 2:g}" y2="{_LAYER_H / 2:g}"/>'
        f'<rect class="error" y="3" width="{100 * mean / longest:.3f}%" height="{_LAYER_H - 6}"/>'
        f'<rect class="largest" x="{max(end - 0.7, 0):.3f}%" y="1" width="0.7%" height="{_LAYER_H - 2}"/>'
        "</svg>"
    )


def scatter(groups: Sequence[tuple[str, Iterable[tuple[str, float, float]]]], x_label: str) -> str:
    """Points by class of style: name, x and y on equal axes, with the line on which both are the same."""
    points = [(style, *point) for style, found in groups for point in found]
    values = [value for _, _, x, y in points for value in (x, y)]
    ticks = _ticks(min(values, default=0.0), max(values, default=1.0))
    low, high = ticks[0], ticks[-1]

    def across(value: float) -> float:
        return _LEFT + _SIDE * (value - low) / (high - low)

    def up(value: float) -> float:
        return _TOP + _SIDE * (high - value) / (high - low)

    width, height = _LEFT + _SIDE + _TOP, _TOP + _SIDE + _BOTTOM
    parts = [f'<svg class="scatter" viewBox="0 0 {width:g} {height:g}" role="img">']
    parts.append(f"<title>pTM by each method against {text(x_label)}</title>")
    for tick in ticks:
        x, y = across(tick), up(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP:g}v{_SIDE:g}M{_LEFT:g} {y:.1f}h{_SIDE:g}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_TOP + _SIDE + 18:g}">{tick:g}</text>')
        parts.append(f'<text class="tick end" x="{_LEFT - 8:g}" y="{y + 4:.1f}">{tick:g}</text>')
    parts.append(f'<path class="same" d="M{_LEFT:g} {_TOP + _SIDE:g}l{_SIDE:g} {-_SIDE:g}"/>')
    parts.append(
        f'<text class="axis" x="{_LEFT + _SIDE / 2:g}" y="{height - 6:g}">pTM, {text(x_label)}</text>'
    )
    middle = _TOP + _SIDE / 2
    parts.append(
        f'<text class="axis" transform="translate(14 {middle:g}) rotate(-90)">pTM, other methods</text>'
    )
    for style, name, x, y in points:
        said = f"<title>{text(name)}: {score(x)} and {score(y)}</title>"
        parts.append(
            f'<circle class="point {style}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="5">{said}</circle>'
        )
    return "\n".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, some three to seven, from below the lowest value to above the highest."""
    rough = max(high - low, 0.02) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _TICKS if factor * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(count * step, 9) for count in range(first, max(last, first + 1) + 1)]

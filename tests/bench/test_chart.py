"""The chart is a whole SVG, names everything, and keeps inside its frame."""

import re
from xml.etree import ElementTree

import pytest

from flashbias_fold.bench.chart import Line, Panel, Point, chart

SVG = "{http://www.w3.org/2000/svg}"


def line(name, *values, **kwargs):
    return Line(name, tuple(Point(x, y, y * 0.9, y * 1.2) for x, y in values), **kwargs)


PANELS = {
    "usual": [
        Panel("forward", [line("one", (64, 0.3), (128, 2.5), (256, 21)), line("two", (64, 3))]),
        Panel(
            "backward", [line("one", (64, 900), (128, 8000)), line("limit", (64, 1), (128, 2), dashed=True)]
        ),
    ],
    "one point": [Panel("forward", [line("alone", (100, 7.0))])],
    "nothing": [Panel("forward", [])],
    "names to escape": [Panel("<&>", [line('a < b & "c"', (1, 2), (2, 3))])],
    "many decades": [Panel("forward", [line("far", (1, 1e-5), (1e6, 1e9))])],
    "many sizes": [Panel("forward", [line("long", *((n, n) for n in range(1, 60)))])],
    "many lines": [Panel("forward", [line(f"line {n}", (1, n), (2, n + 1)) for n in range(1, 40)])],
}


@pytest.mark.parametrize("panels", PANELS.values(), ids=PANELS.keys())
def test_a_chart_is_whole_and_inside_its_frame(panels):
    root = ElementTree.fromstring(chart("title & more", "note", "x", "y", panels))
    width, height = (float(number) for number in root.get("viewBox").split()[2:])
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for panel in panels:
        assert panel.title in texts
        assert all(texts.count(line.name) == 1 for line in panel.lines)
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
    paths = [
        tuple(map(float, place))
        for path in root.iter(f"{SVG}path")
        for place in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.get("d"))
    ]
    labels = [(float(t.get("x")), float(t.get("y"))) for t in root.iter(f"{SVG}text") if t.get("x")]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in [*circles, *paths, *labels])
    marked = [line for panel in panels for line in panel.lines if not line.dashed]
    in_the_legend = len({line.name for line in marked})
    assert len(circles) == sum(len(line.points) for line in marked) + in_the_legend


def test_higher_is_slower_and_to_the_right_is_larger():
    root = ElementTree.fromstring(chart("", "", "", "", [Panel("p", [line("a", (64, 1), (128, 8))])]))
    (x1, y1), (x2, y2) = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")][:2]
    assert x1 < x2 and y1 > y2


def test_equal_factors_are_equal_distances():
    root = ElementTree.fromstring(
        chart("", "", "", "", [Panel("p", [line("a", (64, 1), (128, 10), (256, 100))])])
    )
    ys = [float(c.get("cy")) for c in root.iter(f"{SVG}circle")][:3]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11)

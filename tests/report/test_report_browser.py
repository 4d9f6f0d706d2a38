"""The page in a real browser: it is quiet, asks for nothing, sorts and draws."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from report_browser import PROGRAM, Browser, browser
from report_made_up import HOSTILE, report

from flashbias_fold.report import page

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no chromium, chromium-browser or google-chrome on PATH"
)

# How many pixels of the view, of which kinds of colour, differ from its background.
DRAWN = """(() => {
  const view = document.getElementById("view");
  const { data } = view.getContext("2d").getImageData(0, 0, view.width, view.height);
  let drawn = 0, hash = 0;
  for (let index = 0; index < data.length; index += 4) {
    if (data[index + 3] <= 40) continue;
    drawn++;
    hash = (hash * 31 + data[index] + 7 * data[index + 1] + index) % 1000003;
  }
  return { drawn, hash, share: drawn / (view.width * view.height) };
})()"""
COLUMN = """((title) => {
  const table = document.querySelector("table.sortable");
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent === title);
  return {
    sorts: heads.map((head) => head.getAttribute("aria-sort")),
    at: column,
    values: [...table.tBodies[0].rows].map(({ cells }) => cells[column])
      .map((cell) => cell.querySelector("data")?.value ?? cell.textContent),
  };
})"""
BUTTON = """[...document.querySelectorAll("table.sortable button")].find((one) => one.textContent === %r)"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(report()), encoding="utf-8")
    return path


def test_it_is_quiet_and_asks_for_nothing(tab, file):
    tab.open(file)
    assert tab.complaints() == []
    assert tab.requests() == [file.as_uri()]


def test_the_browser_would_say_so(tab, tmp_path):
    noisy = tmp_path / "noisy.html"
    noisy.write_text("<img src='missing.png'><script>console.error('said'); nothing.at.all</script>")
    tab.open(noisy)
    assert len(tab.requests()) == 2
    assert any("said" in one for one in tab.complaints())
    assert any("ReferenceError" in one for one in tab.complaints())


def test_the_policy_lets_nothing_out(tab, file, tmp_path):
    bad = tmp_path / "bad.html"
    injected = "<img src='missing.png'><script>window.ran = 1</script><main>"
    bad.write_text(file.read_text(encoding="utf-8").replace("<main>", injected), encoding="utf-8")
    tab.open(bad)
    assert tab.run("window.ran ?? 0") == 0
    assert any("Content Security Policy" in one for one in tab.complaints())
    assert tab.run("document.querySelector('img').naturalWidth") == 0


def test_hostile_names_do_nothing_and_are_shown(tab, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_text(page(report(("1igdA00",), label=HOSTILE)), encoding="utf-8")
    tab.open(path)
    assert tab.complaints() == []
    assert tab.requests() == [path.as_uri()]
    assert '</script><script>alert("1")' in tab.run(
        "document.querySelector('table.sortable th bdi').textContent"
    )
    assert '</script><script>alert("1")' in tab.run("document.querySelector('#traces').textContent")
    assert tab.run(DRAWN)["drawn"] > 1000


@pytest.mark.parametrize("title", ["pTM", "seconds", "PAE change"])
def test_a_column_sorts_both_ways(tab, file, title):
    tab.open(file)
    before = tab.run(f"{COLUMN}({title!r})")
    assert set(before["sorts"]) == {"none"}
    for order in ("ascending", "descending"):
        tab.run(f"{BUTTON % title}.click()")
        after = tab.run(f"{COLUMN}({title!r})")
        assert after["sorts"][after["at"]] == order
        assert sum(sort != "none" for sort in after["sorts"]) == 1
        known = [float(value) for value in after["values"] if value != "\N{EN DASH}"]
        assert known == sorted(known, reverse=order == "descending")
        assert after["values"][: len(known)] != before["values"][: len(known)]
        assert sorted(after["values"]) == sorted(before["values"])


def test_names_sort_by_the_keyboard(tab, file):
    tab.open(file)
    tab.run(f"{BUTTON % 'entry'}.focus()")
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    tab.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
    tab.call("Input.dispatchKeyEvent", type="keyUp", **enter)
    found = tab.run(f"{COLUMN}('entry')")
    assert found["sorts"][0] == "ascending"
    assert found["values"] == sorted(found["values"])
    assert found["values"][0] != found["values"][-1]


def test_the_structures_are_drawn_turned_and_hidden(tab, file):
    tab.open(file)
    first = tab.run(DRAWN)
    assert 0.01 < first["share"] < 0.6
    tab.run("document.getElementById('view').scrollIntoView({ block: 'center' })")
    box = tab.run(
        "(({ left, top }) => ({ left, top }))(document.getElementById('view').getBoundingClientRect())"
    )
    for kind, step in (("mousePressed", 0), ("mouseMoved", 60), ("mouseMoved", 120), ("mouseReleased", 120)):
        place = {"x": box["left"] + 150 + step, "y": box["top"] + 150}
        tab.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **place)
    tab.settle()
    turned = tab.run(DRAWN)
    assert turned["hash"] != first["hash"]
    assert turned["drawn"] > 1000
    tab.run("document.getElementById('reset').click()")
    tab.settle()
    assert tab.run(DRAWN) == first
    tab.run("document.getElementById('nearer').click()")
    tab.settle()
    assert tab.run(DRAWN)["drawn"] > first["drawn"]
    boxes = "document.querySelectorAll('#traces input')"
    assert tab.run(f"{boxes}.length") == 3
    tab.run(f"{boxes}.forEach((box) => box.click())")
    tab.settle()
    assert tab.run(DRAWN)["drawn"] == 0


def test_the_structures_are_turned_and_zoomed_by_touch_and_by_keys(tab, file):
    tab.open(file, width=390, height=844)
    tab.run("document.getElementById('view').scrollIntoView({ block: 'center' })")
    rectangle = "document.getElementById('view').getBoundingClientRect()"
    x, y = (tab.run(f"{rectangle}.{side}") + 150 for side in ("left", "top"))
    seen = [tab.run(DRAWN)]
    for fingers in ([(0, 0)], [(-20, 0), (20, 0)]):
        for kind, step in (("touchStart", 1), ("touchMove", 2), ("touchEnd", 0)):
            points = [
                {"x": x + step * dx + 10 * step, "y": y + dy, "id": i} for i, (dx, dy) in enumerate(fingers)
            ]
            tab.call("Input.dispatchTouchEvent", type=kind, touchPoints=points if step else [])
        tab.settle()
        seen.append(tab.run(DRAWN))
    tab.run("document.getElementById('view').focus()")
    for key in ("ArrowUp", "-"):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        tab.settle()
        seen.append(tab.run(DRAWN))
    assert len({one["hash"] for one in seen}) == len(seen)
    assert seen[2]["drawn"] > seen[1]["drawn"]
    assert seen[4]["drawn"] < seen[3]["drawn"]


def test_another_entry_has_another_structure_and_other_maps(tab, file):
    tab.open(file)
    maps = "[...document.querySelectorAll('.map canvas')].map((map) => map.toDataURL())"
    view = "document.getElementById('view').toDataURL()"
    first, first_maps = tab.run(view), tab.run(maps)
    assert len(set(first_maps)) == 2
    tab.run("(() => { const chooser = document.getElementById('entry'); chooser.selectedIndex = 2; "
            "chooser.dispatchEvent(new Event('change')); })()")  # fmt: skip
    tab.settle()
    assert tab.run(view) != first
    assert not set(tab.run(maps)) & set(first_maps)
    assert tab.complaints() == []


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen(tab, file, width, dark):
    tab.open(file, width=width, height=800, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.run("document.getElementById('view').getBoundingClientRect().right") <= width
    assert tab.run(DRAWN)["drawn"] > 1000
    light = tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light != dark


def test_it_prints(tab, file, tmp_path):
    tab.open(file, dark=True)
    tab.print(tmp_path / "page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert len(content) > 20_000
    assert tab.complaints() == []

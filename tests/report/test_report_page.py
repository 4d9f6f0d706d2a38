"""The page of a report: what it shows is the report's, whatever its names are."""

from __future__ import annotations

import base64
import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from report_made_up import HOSTILE, report
from report_schema import SCHEMA, faults

from flashbias_fold.report import markup, pae_map, page, trace
from flashbias_fold.report.charts import STAGES

VOID = {"meta", "link", "br", "img", "input"}


class Parsed(HTMLParser):
    """The texts, numbers and attributes of a page, each text with the elements around it."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.data: list[tuple[float, str]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        found, _ = self.open.pop()
        assert found == tag, f"</{tag}> closes <{found}>"

    def handle_data(self, data: str) -> None:
        around = tuple(tag for tag, _ in self.open)
        if not around:
            assert not data.strip()
            return
        tag, attributes = self.open[-1]
        if tag == "data":
            self.data.append((float(attributes["value"] or "nan"), data))
        elif "tick" not in (attributes.get("class") or "").split():
            self.texts.append((around, data))

    def visible(self) -> list[str]:
        return [text for around, text in self.texts if not {"script", "style", "svg", "head"} & set(around)]

    def of(self, tag: str) -> list[str]:
        return [text for around, text in self.texts if around[-1] == tag]


def walk(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)
    else:
        yield value


def numbers(value: Any) -> set[float]:
    return {float(one) for one in walk(value) if isinstance(one, int | float) and not isinstance(one, bool)}


def strings(value: Any) -> list[str]:
    return sorted({one for one in walk(value) if isinstance(one, str) and one}, key=len, reverse=True)


def is_rounded(text: str, value: float) -> bool:
    """Whether a number is written to the digits that it shows, as it is, in per cent, or in GiB."""
    shown = text.replace("\N{MINUS SIGN}", "-")
    scale = 100 if shown.endswith(" %") else 1
    digits = re.fullmatch(r"-?\d+(?:\.(\d+))?(?:e(-?\d+))?", shown.removesuffix(" %"))
    assert digits, text
    unit = 10.0 ** (int(digits[2] or 0) - len(digits[1] or ""))
    written = float(shown.removesuffix(" %"))
    scales = (scale, 2.0**-30) if abs(value) > 2**20 else (scale,)
    return any(abs(value * factor - written) <= 0.501 * unit for factor in scales)


@pytest.fixture(scope="module")
def made_up() -> dict[str, Any]:
    return report()


@pytest.fixture(scope="module")
def hostile() -> dict[str, Any]:
    return report(("1igdA00",), label=HOSTILE)


# The schema


def test_a_report_is_as_the_schema_says(made_up, hostile):
    assert faults(made_up) == []
    assert faults(hostile) == []


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "report: additionalProperties": lambda found: found.update(more=1),
    "report.format: const": lambda found: found.update(format=2),
    "report: required": lambda found: found.pop("speed"),
    "report.methods: minItems": lambda found: found.update(methods=[]),
    "report.methods[0].bias: enum": lambda found: found["methods"][0].update(bias="other"),
    "report.verdict.level: exclusiveMaximum": lambda found: found["verdict"].update(level=1),
    "report.summary[0].measures: enum": lambda found: found["summary"][0]["measures"].update(
        speed=found["speed"]["wall_ratio"]
    ),
    "report.speed.trunk_ratio: anyOf": lambda found: found["speed"].update(trunk_ratio={"mean": 1}),
    "report.entries[1].results[2].ptm: maximum": lambda found: found["entries"][1]["results"][2].update(
        ptm=1.2
    ),
    "report.entries[0].results[0].ptm: type": lambda found: found["entries"][0]["results"][0].update(
        ptm=True
    ),
    "report.entries[0].pae_maps[0].size: maximum": lambda found: found["entries"][0]["pae_maps"][0].update(
        size=129
    ),
    "report.entries[0].traces[0].chains[0].segments[0][0]: maxItems": lambda found: found["entries"][0][
        "traces"
    ][0]["chains"][0]["segments"][0][0].append(0.0),
}


@pytest.mark.parametrize("expected", CHANGES)
def test_what_the_schema_refuses(made_up, expected):
    changed = copy.deepcopy(made_up)
    CHANGES[expected](changed)
    found = faults(changed)
    assert expected in found


def test_every_object_of_the_schema_is_closed_and_complete():
    def objects(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if "properties" in node and "type" in node:
                yield node
            for inner in node.values():
                yield from objects(inner)

    found = list(objects(SCHEMA))
    assert len(found) > 10
    for node in found:
        assert node["additionalProperties"] is False
        assert sorted(node["required"]) == sorted(node["properties"])


def test_structures_that_are_not_plausible_are_listed_and_marked(made_up):
    content = page(made_up)
    assert content.count("not plausible</span>") == len(made_up["entries"])
    assert content.count("chain A: 1 break of the backbone") == len(made_up["entries"])
    sound = copy.deepcopy(made_up)
    for entry in sound["entries"]:
        for result in entry["results"]:
            result |= {"plausible": True, "problems": []}
    assert "not plausible" not in page(sound)


# Numbers


def test_every_number_shown_is_one_of_the_report(made_up):
    parsed = Parsed(page(made_up))
    known = numbers(made_up)
    assert len(parsed.data) > 300
    for value, text in parsed.data:
        assert value in known, text
        assert is_rounded(text, value), (text, value)


def test_no_other_text_has_digits(made_up):
    known = [*strings(made_up), " ".join(made_up["provenance"]["command"])]
    for text in Parsed(page(made_up)).visible():
        left = text
        for string in sorted(known, key=len, reverse=True):
            left = left.replace(string, "")
        assert not re.search(r"\d", left), text


def test_what_is_said_at_a_point_or_bar_is_of_the_report(made_up):
    known = numbers(made_up)
    names = strings(made_up)
    said = [text for around, text in Parsed(page(made_up)).texts if around[-1] == "title" and "svg" in around]
    assert len(said) > 80
    for text in said:
        left = text
        for name in names:
            left = left.replace(name, "")
        for number in re.findall(r"\d[\d.]*", left):
            assert any(is_rounded(number, value) for value in known), text


def test_every_result_of_every_entry_is_in_the_table(made_up):
    shown = {value for value, _ in Parsed(page(made_up)).data}
    for entry in made_up["entries"]:
        for result in entry["results"]:
            plain = {key: result[key] for key in ("ptm", "plddt", "ranking_score", "wall_s", "stages_s")}
            assert numbers([plain, result["to_stock"], result["to_truth"]]) <= shown
    for row in made_up["summary"]:
        assert numbers(row["layers"]) <= shown


def test_the_verdict_and_the_ratio_come_first_and_provenance_last(made_up):
    content = page(made_up)
    places = [
        content.index(text)
        for text in ('class="verdict same"', 'class="big"', "Over all entries", "How this was made")
    ]
    assert places == sorted(places)
    ratio = made_up["speed"]["wall_ratio"]["mean"]
    assert f'<p class="big"><data value="{ratio!r}">1.42</data>' in content
    assert made_up["provenance"]["commit"] in content[places[-1] :]


@pytest.mark.parametrize(("same", "mood"), [(True, "same"), (False, "different"), (None, "open")])
def test_the_verdict_is_told_by_more_than_colour(made_up, same, mood):
    found = made_up | {"verdict": made_up["verdict"] | {"same": same, "headline": "Told in words"}}
    content = page(found)
    assert f'<div class="verdict {mood}"><h1>Told in words</h1>' in content


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.012"), (-0.5, "-0.50"), (1e-4, "0.00010"), (3.21e-6, "3.2e-6"), (-123.4, "-123")],
)
def test_small_differences_keep_two_digits(value, text):
    assert markup.change(value) == text.replace("-", "\N{MINUS SIGN}")


@pytest.mark.parametrize(
    ("value", "text"), [(0.012, "0.01"), (9.994, "9.99"), (10.04, "10.0"), (123.4, "123")]
)
def test_seconds(value, text):
    assert markup.seconds(value) == text


# Names


def test_hostile_names_are_text(hostile):
    content = page(hostile)
    parsed = Parsed(content)
    assert parsed.open == []
    assert len(parsed.of("script")) == 2
    assert content.count("<script") == content.count("</script") == 2
    printable = HOSTILE.replace("\ud800", "\ufffd").replace("\x00", "\ufffd")
    names = [text for around, text in parsed.texts if around[-1] == "bdi"]
    assert f"1igdA00{printable}" in names
    assert not any(name.startswith("on") or name == "style" for _, name, _ in parsed.attributes)
    assert "$policy" not in content


def test_what_is_embedded_is_read_again_as_it_was(hostile):
    first, _ = Parsed(page(hostile)).of("script")
    assert not set("<>&") & set(first)
    embedded = json.loads(first)
    assert embedded["entries"][0]["name"] == f"1igdA00{HOSTILE}"
    assert embedded["entries"][0]["traces"] == hostile["entries"][0]["traces"]
    assert embedded["looks"]["flashbias"] == {"label": f"FlashBias{HOSTILE}", "style": "method-1"}


def test_the_page_can_be_written_as_a_file(hostile, tmp_path):
    (tmp_path / "page.html").write_text(page(hostile), encoding="utf-8")


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("where", ["trace", "score"])
def test_what_json_cannot_hold_is_refused(made_up, where, value):
    found = copy.deepcopy(made_up)
    if where == "trace":
        found["entries"][0]["traces"][0]["chains"][0]["segments"][0][0][0] = value
    else:
        found["entries"][0]["results"][0]["plddt"] = value
    with pytest.raises(ValueError, match="JSON"):
        page(found)


# The file


def test_it_depends_on_the_report_alone(made_up):
    content = page(made_up)
    assert page(json.loads(json.dumps(made_up))) == content
    assert page(report()) == content


def test_it_names_no_other_file_and_no_address(made_up):
    content = page(made_up)
    loading = {"src", "href", "srcset", "action", "data", "poster", "background"}
    assert not [found for found in Parsed(content).attributes if found[1] in loading]
    assert not re.search(r"https?:|url\(|@import|\bfetch\(|XMLHttpRequest|\bimport\b", content)


def test_only_its_own_script_and_style_may_run(made_up):
    content = page(made_up)
    assert "default-src 'none'" in content
    assert "unsafe" not in content
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        assert len(inside) == 1
        assert len(re.findall(rf"{tag}-src 'sha256-[A-Za-z0-9+/]{{43}}='", content)) == 1


def test_a_report_with_nothing_in_it_is_a_page(made_up):
    empty = made_up | {"entries": [], "summary": [], "failed": [], "methods": made_up["methods"][:2]}
    empty["speed"] = made_up["speed"] | {"trunk_ratio": None, "memory_ratio": None}
    empty["verdict"] = made_up["verdict"] | {"measures": [], "noise": None, "same": None}
    assert faults(empty) == []
    parsed = Parsed(page(empty))
    assert "No entry was compared." in parsed.visible()
    assert parsed.open == []


def test_what_is_missing_is_a_dash(made_up):
    found = copy.deepcopy(made_up)
    for entry in found["entries"]:
        entry["results"] = [result for result in entry["results"] if result["method"] != "none"]
        entry["results"][1] |= {"ptm": None, "to_truth": None}
    found["summary"][3]["measures"] = {}
    assert faults(found) == []
    content = page(found)
    assert content.count('class="nothing"') > page(made_up).count('class="nothing"')
    assert "None" not in content
    assert "nan" not in "".join(Parsed(content).visible())


# The parts


@pytest.mark.parametrize("n", [1, 2, 5, 127, 128, 129, 255, 300])
def test_a_map_is_the_mean_over_its_squares(n):
    errors = np.random.default_rng(n).uniform(0, 31, (n, n))
    found = pae_map("stock", errors)
    size = found["size"]
    assert size == min(n, 128)
    values = np.frombuffer(base64.b64decode(found["values"]), np.uint8).reshape(size, size)
    edges = [index * n // size for index in range(size + 1)]
    for row, column in ((0, 0), (size // 2, size // 3), (size - 1, size - 1), (0, size - 1)):
        square = errors[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        assert abs(values[row, column] - 255 * square.mean() / 31.75) <= 0.5 + 1e-9


def test_a_map_is_cut_at_its_ends():
    values = base64.b64decode(pae_map("stock", [[-1.0, 31.75], [100.0, 0.0]])["values"])
    assert list(values) == [0, 255, 255, 0]


@pytest.mark.parametrize("errors", [[], [[1.0, 2.0]], [[float("nan")]], [1.0]])
def test_what_is_no_map_is_refused(errors):
    with pytest.raises(ValueError, match="expected a PAE"):
        pae_map("stock", errors)


def test_a_trace_is_rounded_and_keeps_its_breaks():
    found = trace("experiment", {"A": [[[0.12345, -0.001, 2.0]], np.zeros((0, 3)), np.ones((2, 3))]})
    assert found["chains"] == [{"id": "A", "segments": [[[0.12, 0.0, 2.0]], [[1.0] * 3] * 2]}]
    assert "-0.0" not in json.dumps(found)


@pytest.mark.parametrize("stretch", [[[1.0, 2.0]], [[float("inf"), 0, 0]], [1.0, 2.0, 3.0]])
def test_what_is_no_trace_is_refused(stretch):
    with pytest.raises(ValueError, match="expected finite coordinates"):
        trace("stock", {"A": [stretch]})


def test_the_stages_are_those_of_the_schema():
    assert list(STAGES) == SCHEMA["$defs"]["stages"]["required"]

"""The page as a whole: the report's numbers in the template's places, in the order of what matters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from string import Template
from typing import Any

from flashbias_fold.report import markup
from flashbias_fold.report.charts import STAGES, error_bar, scatter, stacked_bar
from flashbias_fold.report.document import document, framed, listed
from flashbias_fold.report.markup import data, interval, name, text
from flashbias_fold.resources import resource

Report = Mapping[str, Any]
Show = Callable[[float], str]

_COLOURS = 8  # that the style sheet has for methods
_UNITS: dict[str, tuple[str, Show]] = {
    "ptm": ("pTM", markup.score),
    "iptm": ("ipTM", markup.score),
    "plddt": ("pLDDT", markup.one_decimal),
    "ranking_score": ("ranking score", markup.score),
    "wall_s": ("seconds", markup.seconds),
    "peak_memory_bytes": ("memory, GiB", markup.gibibytes),
    "ptm_change": ("difference in pTM", markup.change),
    "iptm_change": ("difference in ipTM", markup.change),
    "plddt_change": ("difference in pLDDT", markup.change),
    "ranking_score_change": ("difference in ranking score", markup.change),
    "pae_change": ("difference in PAE, \N{ANGSTROM SIGN}", markup.change),
}
_CLOSENESS: dict[str, tuple[str, Show]] = {
    "lddt_ca": ("LDDT, C\N{GREEK SMALL LETTER ALPHA}", markup.score),
    "lddt_all": ("LDDT, all atoms", markup.score),
    "tm_score": ("TM-score", markup.score),
    "rmsd": ("RMSD, \N{ANGSTROM SIGN}", markup.two_decimals),
    "interface": ("interface", markup.score),
}
_KINDS = {"dockq": "DockQ", "interface_lddt": "interface LDDT"}
_TARGETS = ("stock", "truth")
_UNITS |= {
    f"{measure}_to_{target}": (f"{label} to {target}", show)
    for target in _TARGETS
    for measure, (label, show) in _CLOSENESS.items()
}
_OVERALL = (
    "ptm", "iptm", "plddt", "lddt_ca_to_stock", "interface_to_stock", "lddt_ca_to_truth",
    "tm_score_to_truth", "interface_to_truth", "wall_s", "peak_memory_bytes",
)  # fmt: skip


def page(report: Report) -> str:
    """One HTML file that opens offline and asks for nothing: no request, no other file, no library.

    Args:
        report: As in `docs/compare.schema.json`.

    Raises:
        ValueError: A number is not finite, which JSON cannot hold.
    """
    style, script = _file("page.css"), _file("page.js")
    return document(
        _file("page.html"),
        style=style,
        script=script,
        json=_embedded(_drawn(report)),
        title=text(f"{report['verdict']['headline']}: {report['model']}"),
        head=_head(report),
        verdict=_verdict(report),
        overall=_overall(report),
        times=_times(report),
        scatter=_scatter(report),
        layers=_layers(report),
        shapes=_shapes(report),
        entries=_entries(report),
        failed=_implausible(report) + _failed(report),
        provenance=_provenance(report),
    )


def _file(file: str) -> str:
    return resource("report", file).read_text(encoding="utf-8")


def _embedded(content: object) -> str:
    """JSON that no name in it can end: `</script>` and `<!--` need their `<`."""
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _drawn(report: Report) -> dict[str, Any]:
    """What the script draws; everything else is in the page already."""
    entries = [
        {"name": entry["name"], "traces": entry["traces"], "pae_maps": entry["pae_maps"]}
        for entry in _with_shapes(report)
    ]
    looks = {key: {"label": label, "style": _style(report, key)} for key, label in _labels(report).items()}
    return {"entries": entries, "looks": looks}


def _with_shapes(report: Report) -> list[Report]:
    return [entry for entry in report["entries"] if entry["traces"] or entry["pae_maps"]]


def _labels(report: Report) -> dict[str, str]:
    return {"experiment": "experiment"} | {method["key"]: method["label"] for method in report["methods"]}


def _style(report: Report, key: str) -> str:
    """The class that gives a method its colour."""
    keys = [method["key"] for method in report["methods"]]
    return f"method-{keys.index(key) % _COLOURS}" if key in keys else "experiment"


def _swatch(report: Report, key: str) -> str:
    label = _labels(report).get(key, key)
    return f'<span class="method"><span class="swatch {_style(report, key)}"></span>{name(label)}</span>'


def _head(report: Report) -> str:
    note = ""
    if report["demo_model"]:
        note = '<p class="caution">The demonstration model is small, and not for science.</p>'
    created = text(report["provenance"]["created"])
    return (
        '<p class="kicker">flashbias-fold compare \N{MIDDLE DOT} '
        f"model {name(report['model'])} \N{MIDDLE DOT} <time>{created}</time></p>{note}"
    )


def _verdict(report: Report) -> str:
    verdict, speed = report["verdict"], report["speed"]
    first, labels = report["methods"][0]["key"], _labels(report)
    mood = {True: "same", False: "different", None: "open"}[verdict["same"]]
    others = [
        f'<div class="ratio"><dt>{label}</dt><dd>{interval(speed[key], markup.two_decimals)}</dd></div>'
        for key, label in (
            ("trunk_ratio", "trunk, times as fast"),
            ("memory_ratio", "memory, times as little"),
        )
        if speed[key]
    ]
    ratio = speed["wall_ratio"]
    return (
        f'<div class="verdict {mood}"><h1>{text(verdict["headline"])}</h1>'
        f'<p class="said">{text(verdict["text"])}</p></div>'
        f'<div class="speed"><p class="big">{data(ratio["mean"], markup.two_decimals)}'
        f'<span class="times">\N{MULTIPLICATION SIGN}</span></p>'
        f"<p>speed of {name(labels[speed['method']])} relative to {name(labels[first])}, whole predictions "
        f'<span class="range">{data(ratio["low"], markup.two_decimals)} to '
        f"{data(ratio['high'], markup.two_decimals)}</span></p>"
        f'<dl class="ratios">{"".join(others)}</dl></div>'
        f"{_measures(report)}"
    )


def _measures(report: Report) -> str:
    """What the verdict rests on."""
    verdict = report["verdict"]
    if not verdict["measures"]:
        return ""
    words = {True: "same", False: "more than noise", None: "cannot tell"}
    rows = []
    for measure in verdict["measures"]:
        label, show = _UNITS[measure["name"]]
        rows.append(
            f'<tr><th scope="row">{label}</th><td>{interval(measure["change"], show)}</td>'
            f"<td>{interval(measure['noise'], show)}</td><td>{data(measure['negligible'], show)}</td>"
            f"<td>{words[measure['same']]}</td></tr>"
        )
    noise = _swatch(report, verdict["noise"]) if verdict["noise"] else "noise"
    head = f'<th scope="col">{_swatch(report, verdict["method"])}</th><th scope="col">{noise}</th>'
    return framed(
        "What the verdict rests on",
        f'<thead><tr><th scope="col">compared with {name(report["methods"][0]["label"])}</th>{head}'
        '<th scope="col">negligible</th><th scope="col">verdict</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody>",
        kind="measures",
    )


def _overall(report: Report) -> str:
    rows = report["summary"]
    shown = [measure for measure in _OVERALL if any(measure in row["measures"] for row in rows)]
    head = "".join(f'<th scope="col">{_UNITS[measure][0]}</th>' for measure in shown)
    lines = []
    for row in rows:
        cells = [f'<td class="words">{text(row["verdict"] or "")}</td>']
        cells += [f"<td>{interval(row['measures'].get(one), _UNITS[one][1])}</td>" for one in shown]
        lines.append(f'<tr><th scope="row">{_swatch(report, row["method"])}</th>{"".join(cells)}</tr>')
    level = data(report["verdict"]["level"], lambda value: f"{100 * value:g} %")
    return framed(
        "Means over the entries, and their intervals",
        f'<thead><tr><th scope="col">method</th><th scope="col" class="words">verdict</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody>",
        kind="overall",
    ) + (f'<p class="note">Intervals here and above: bootstrap over the entries, {level}.</p>')


def _times(report: Report) -> str:
    legend = "".join(f'<li><span class="swatch {stage}"></span>{stage}</li>' for stage in STAGES)
    summary = [(row["method"], row["stages_s"], _mean_time(row)) for row in report["summary"]]
    parts = [f'<ul class="legend">{legend}</ul>', _bars(report, summary)]
    inner = "".join(
        f"<h4>{name(entry['name'])}</h4>"
        + _bars(report, [(found["method"], found["stages_s"], found["wall_s"]) for found in entry["results"]])
        for entry in report["entries"]
    )
    if inner:
        parts.append(f"<details><summary>each entry</summary>{inner}</details>")
    return "".join(parts)


def _mean_time(row: Report) -> float | None:
    return row["measures"].get("wall_s", {}).get("mean")


def _bars(report: Report, rows: Sequence[tuple[str, Mapping[str, float], float | None]]) -> str:
    longest = max((sum(stages.values()) for _, stages, _ in rows), default=0.0)
    lines = []
    for key, stages, wall in rows:
        listed = ", ".join(f"{stage} {data(stages[stage], markup.seconds)}" for stage in STAGES)
        lines.append(
            f'<div class="times-row"><span>{_swatch(report, key)}</span>{stacked_bar(stages, longest)}'
            f'<span class="total">{data(wall, markup.seconds)} s</span>'
            f'<span class="parts">{listed}</span></div>'
        )
    return f'<div class="bars">{"".join(lines)}</div>'


def _scatter(report: Report) -> str:
    first, *others = report["methods"]
    groups, legend = [], []
    # The method that is judged comes last, on top of the others.
    for method in sorted(others, key=lambda method: method["key"] == report["verdict"]["method"]):
        points = []
        for entry in report["entries"]:
            found = {result["method"]: result["ptm"] for result in entry["results"]}
            x, y = found.get(first["key"]), found.get(method["key"])
            if x is not None and y is not None:
                points.append((entry["name"], x, y))
        if points:
            groups.append((_style(report, method["key"]), points))
            legend.append(f"<li>{_swatch(report, method['key'])}</li>")
    if not groups:
        return '<p class="note">There is nothing to compare.</p>'
    return (
        f'<div class="beside"><div>{scatter(groups, first["label"])}</div>'
        f'<div><ul class="legend column">{"".join(legend)}</ul>'
        '<p class="note">A point for each entry and method. On the line, pTM is the same.</p></div></div>'
    )


def _layers(report: Report) -> str:
    tables = [_layer_table(report, row) for row in report["summary"] if row["layers"]]
    return "".join(tables) or '<p class="note">No method replaced a layer.</p>'


def _layer_table(report: Report, row: Report) -> str:
    longest = max((layer["largest_error"] or 0.0 for layer in row["layers"]), default=0.0)
    lines = [
        f'<tr><th scope="row">{name(layer["name"])}</th><td>{name(layer["way"])}</td>'
        f"<td>{data(layer['rank'], markup.whole)}</td><td>{data(layer['reach'], markup.whole)}</td>"
        f'<td class="graph">{error_bar(layer["mean_error"], layer["largest_error"], longest)}</td>'
        f"<td>{data(layer['mean_error'], markup.change)}</td>"
        f"<td>{data(layer['largest_error'], markup.change)}</td>"
        f"<td>{data(layer['fallbacks'], markup.whole)}</td></tr>"
        for layer in row["layers"]
    ]
    heads = ("layer", "way", "rank", "reach", "error of its output", "mean", "largest", "fallbacks")
    head = "".join(f'<th scope="col">{title}</th>' for title in heads)
    opened = " open" if row["method"] == report["verdict"]["method"] else ""
    table = framed(
        "Errors that the layers certify, relative to the exact bias",
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>",
        kind="layers",
    )
    return f"<details{opened}><summary>{_swatch(report, row['method'])}</summary>{table}</details>"


def _shapes(report: Report) -> str:
    entries = _with_shapes(report)
    if not entries:
        return '<p class="note">The report holds no structures.</p>'
    options = "".join(
        f'<option value="{index}">{text(entry["name"])}</option>' for index, entry in enumerate(entries)
    )
    return Template(_file("shapes.html")).substitute(options=options)


def _entries(report: Report) -> str:
    if not report["entries"]:
        return '<p class="note">No entry was compared.</p>'
    columns = [column for column in _columns(report) if _is_used(column, report)]
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{title}</button></th>'
        for title in ("entry", "method", *(title for title, _, _ in columns))
    )
    rows = []
    for entry in report["entries"]:
        for result in entry["results"]:
            cells = "".join(f"<td>{data(value(entry, result), show)}</td>" for _, value, show in columns)
            rows.append(
                f'<tr><th scope="row">{name(entry["name"])}</th>'
                f"<td>{_swatch(report, result['method'])}{_mark(result)}</td>{cells}</tr>"
            )
    return framed(
        "Every entry by every method; a column's title sorts by it",
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>",
        kind="entries sortable",
    )


Column = tuple[str, Callable[[Report, Report], Any], Show]


def _columns(report: Report) -> list[Column]:
    first = text(report["methods"][0]["label"])
    columns: list[Column] = [("tokens", lambda entry, _: entry["n_token"], markup.whole)]
    for key in ("ptm", "iptm", "plddt", "ranking_score", "wall_s", "peak_memory_bytes"):
        label, show = _UNITS[key]
        columns.append((label, _of_result(key), show))
    columns.append(("PAE change", lambda _, result: (result["change"] or {}).get("pae"), markup.change))
    for target, whom in zip(_TARGETS, (first, "truth"), strict=True):
        for measure, (label, show) in _CLOSENESS.items():
            title = _interface(report) if measure == "interface" else label
            columns.append((f"{title} to {whom}", _closeness(target, measure), show))
    return columns


def _interface(report: Report) -> str:
    """What interfaces were scored by."""
    scores = [
        (result[f"to_{target}"] or {}).get("interface")
        for entry in report["entries"]
        for result in entry["results"]
        for target in _TARGETS
    ]
    kinds = sorted({_KINDS[score["kind"]] for score in scores if score})
    return " or ".join(kinds)


def _of_result(key: str) -> Callable[[Report, Report], Any]:
    return lambda _, result: result[key]


def _closeness(target: str, measure: str) -> Callable[[Report, Report], Any]:
    def value(_entry: Report, result: Report) -> float | None:
        found = (result[f"to_{target}"] or {}).get(measure)
        return found["value"] if isinstance(found, Mapping) else found

    return value


def _is_used(column: Column, report: Report) -> bool:
    _, value, _ = column
    return any(value(entry, result) is not None for entry in report["entries"] for result in entry["results"])


def _mark(result: Report) -> str:
    return '<span class="caution"> not plausible</span>' if not result["plausible"] else ""


def _implausible(report: Report) -> str:
    lines = "".join(
        f"<li>{name(entry['name'])}, {_swatch(report, result['method'])}: "
        f"{text('; '.join(result['problems']))}</li>"
        for entry in report["entries"]
        for result in entry["results"]
        if not result["plausible"]
    )
    if not lines:
        return ""
    return f'<section class="failed"><h2>Structures that are not plausible</h2><ul>{lines}</ul></section>'


def _failed(report: Report) -> str:
    if not report["failed"]:
        return ""
    lines = "".join(f"<li>{name(one['name'])}: {text(one['why'])}</li>" for one in report["failed"])
    return f'<section class="failed"><h2>Not compared, or not in full</h2><ul>{lines}</ul></section>'


def _provenance(report: Report) -> str:
    made = report["provenance"]
    plans = {method["label"]: method["plan"] for method in report["methods"] if method["plan"]}
    groups = {
        "command": f"<code>{text(' '.join(made['command']))}</code>",
        "commit": f"<code>{text(made['commit'])}</code>" if made["commit"] else "not of a checkout",
        "seeds": ", ".join(data(seed, markup.whole) for seed in made["seeds"]),
        "runs": f"{data(made['repeats'], markup.whole)} measured, methods taking turns, after "
        f"{data(made['warm_ups'], markup.whole)} to warm up",
        "plans": listed(plans),
        "machine": listed(made["machine"]),
        "versions": listed(made["versions"]),
    }
    return "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in groups.items() if value)

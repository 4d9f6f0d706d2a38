"""A campaign as one page: what became of its jobs, how fast they went, the best structures, what failed.

Its size does not grow with the campaign: what is many is counted, drawn together, or cut and said so.
"""

from __future__ import annotations

import datetime
import math
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from flashbias_fold.campaign.chart import Point, time_by_length
from flashbias_fold.predict.ranking import best_sample, is_plausible, rank_between_jobs
from flashbias_fold.report import markup
from flashbias_fold.report.charts import STAGES, stacked_bar
from flashbias_fold.report.document import document, framed, listed
from flashbias_fold.report.markup import data, name, text
from flashbias_fold.resources import resource

Run = Mapping[str, Any]
Report = Mapping[str, Any]

MOST_BEST = 50
_MOST_REASONS = 40
_MOST_NAMES = 60  # of the jobs that failed for one reason
_MOST_WORKERS = 200
_MOST_LETTERS = 400  # of a reason
_MOST_DEVICES = 7  # that have a colour of their own
_BAR_H = 14
# What the jobs came to, and the class of style of each.
_STATES = {
    "done": "done",
    "skipped": "skipped",
    "failed": "failed-jobs",
    "running": "running",
    "pending": "pending",
}
_WORDS = {"skipped": "complete before", "invalid": "not accepted"}
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def page(run: Run, reports: Sequence[Report]) -> str:
    """One HTML file that opens offline and asks for nothing; only its links lead to the files beside it.

    Args:
        run: What `run.json` holds, of a campaign that is over, stopped, or still running.
        reports: The `report.json` of each job that is complete.
    """
    style = _file("report", "page.css") + _file("campaign", "page.css")
    counts = _counts(run)
    return document(
        _file("campaign", "page.html"),
        style=style,
        script=_file("report", "page.js"),
        title=text(f"{_headline(counts)}: {_model(run)}"),
        head=_head(run),
        counts=_became(run, counts),
        pace=_pace(run, reports),
        failed=_failed(run),
        best=_best(reports),
        lengths=_lengths(reports),
        stages=_stages(reports),
        workers=_workers(run),
        provenance=_provenance(run),
    )


def _file(folder: str, file: str) -> str:
    return resource(folder, file).read_text(encoding="utf-8")


def _model(run: Run) -> str:
    return str(run.get("model", {}).get("name", "unknown"))


def _campaign(run: Run) -> Run:
    """What only a campaign has; a local run has none of it."""
    return run.get("campaign", {})


def _counts(run: Run) -> dict[str, int]:
    jobs = run.get("jobs", {})
    found = Counter(jobs.values())
    rejected = sum(one["name"] not in jobs for one in run.get("rejected", []))
    return {**{state: found[state] for state in _STATES}, "invalid": rejected}


def _headline(counts: Mapping[str, int]) -> str:
    return f"{counts['done'] + counts['skipped']:,} of {sum(counts.values()):,} targets complete"


def _head(run: Run) -> str:
    note = ""
    if run.get("model", {}).get("demo_model"):
        note = '<p class="caution">The demonstration model is small, and not for science.</p>'
    return (
        '<p class="kicker">flashbias-fold predict \N{MIDDLE DOT} '
        f"model {name(_model(run))} \N{MIDDLE DOT} <time>{text(run.get('updated', ''))}</time></p>{note}"
    )


def _became(run: Run, counts: Mapping[str, int]) -> str:
    unfinished = counts["running"] + counts["pending"]
    mood = "open" if unfinished else "different" if counts["failed"] + counts["invalid"] else "same"
    endings = {
        "running": "The campaign is still running; this is how it stood at the time above.",
        "interrupted": "The campaign was interrupted; the same command goes on where it stopped.",
        "failed": "The campaign stopped at an error; the same command goes on where it stopped.",
    }
    ending = endings.get(str(run.get("status")), "")
    legend = "".join(
        f'<li><span class="swatch {_STATES.get(state, "experiment")}"></span>'
        f"{data(count, _thousands)} {_WORDS.get(state, state)}</li>"
        for state, count in counts.items()
        if count
    )
    return (
        f'<div class="verdict counts {mood}"><h1>{text(_headline(counts))}</h1>'
        f'{_shares(counts)}<ul class="legend">{legend}</ul><p class="said">{ending}</p></div>'
    )


def _shares(counts: Mapping[str, int]) -> str:
    parts, start, whole = [], 0.0, sum(counts.values())
    for state, count in counts.items():
        if count:
            width = 100 * count / whole
            style = _STATES.get(state, "experiment")
            parts.append(
                f'<rect class="share {style}" x="{start:.3f}%" width="{width:.3f}%" height="{_BAR_H}"/>'
            )
            start += width
    return f'<svg class="bar" height="{_BAR_H}" aria-hidden="true">{"".join(parts)}</svg>'


def _pace(run: Run, reports: Sequence[Report]) -> str:
    campaign = _campaign(run)
    now = {job for job, state in run.get("jobs", {}).items() if state == "done"}
    made = [report for report in reports if report["name"] in now]
    elapsed = _elapsed(run)
    per_hour = campaign.get("per_hour")
    if per_hour is None and elapsed:
        per_hour = 3600 * len(made) / elapsed
    tokens = 3600 * sum(report["n_token"] for report in made) / elapsed if elapsed else None
    figures: dict[str, tuple[float | None, Callable[[float], str]]] = {
        "elapsed": (elapsed, _span),
        "left, about": (campaign.get("remaining_s") if run.get("status") == "running" else None, _span),
        "tokens per hour": (tokens, _thousands),
        "structures": (sum(len(report["samples"]) for report in made), _thousands),
        "all predictions, one after another": (_total(report["wall_s"] for report in made), _span),
    }
    others = "".join(
        f'<div class="ratio"><dt>{label}</dt><dd>{_number(value, show)}</dd></div>'
        for label, (value, show) in figures.items()
        if value is not None
    )
    return (
        f'<div class="speed"><p class="big">{_number(per_hour, _thousands)}</p><p>jobs per hour</p>'
        f'<dl class="ratios">{others}</dl></div>'
    )


def _elapsed(run: Run) -> float | None:
    elapsed = _campaign(run).get("elapsed_s")
    if elapsed is not None or "started" not in run or "updated" not in run:
        return elapsed
    began, updated = (datetime.datetime.fromisoformat(run[key]) for key in ("started", "updated"))
    return (updated - began).total_seconds()


def _total(values: Iterable[float]) -> float:
    return math.fsum(value for value in values if math.isfinite(value))


def _number(value: float | None, show: Callable[[float], str]) -> str:
    """A number, or a dash for one that is unknown or cannot be written."""
    return data(value if value is not None and math.isfinite(value) else None, show)


def _thousands(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{markup.seconds(seconds)} s"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _failed(run: Run) -> str:
    groups = _reasons(run)
    if not groups:
        return ""
    rows = [
        f'<tr><th scope="row" class="words">{text(why)}</th><td class="words">{text(kind)}</td>'
        f'<td>{data(len(names), _thousands)}</td><td class="words">{_names(names)}</td></tr>'
        for (kind, why), names in groups[:_MOST_REASONS]
    ]
    head = (
        '<th scope="col" class="words">reason</th><th scope="col" class="words">kind</th>'
        '<th scope="col">jobs</th><th scope="col" class="words">which</th>'
    )
    table = framed(
        "Why jobs failed, the most frequent reason first; DIR/NAME/error.json has more of each",
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>",
        kind="reasons",
    )
    more = len(groups) - len(rows)
    note = f'<p class="note">And {data(more, markup.whole)} more reasons.</p>' if more else ""
    return f'<section class="failed"><h2>What failed, and why</h2>{table}{note}</section>'


def _reasons(run: Run) -> list[tuple[tuple[str, str], list[str]]]:
    """Kind and reason with the jobs' names, the most frequent first; reasons may differ in their numbers."""
    noted = _campaign(run).get("failures", {})
    found = [(job, one["kind"], one["error"]) for job, one in noted.items()]
    found += [
        (one["name"] or "without a name", "input", one["error"])
        for one in run.get("rejected", [])
        if one["name"] not in noted
    ]
    found += [
        (job, "unknown", "see its error.json")
        for job, state in run.get("jobs", {}).items()
        if state == "failed" and job not in noted
    ]
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for job, kind, error in sorted(found):
        why = _without_place(error, job)
        groups.setdefault((kind, _NUMBER.sub("\N{HORIZONTAL ELLIPSIS}", why)), []).append((job, why))
    told = []
    for (kind, pattern), jobs in groups.items():
        alike = len({why for _, why in jobs}) == 1
        told.append(((kind, jobs[0][1] if alike else pattern), [job for job, _ in jobs]))
    return sorted(told, key=lambda group: (-len(group[1]), group[0]))


def _without_place(error: str, job: str) -> str:
    """The reason without the file and the job, so that the same mistake in several is told once."""
    _, found, rest = error.partition(f"job '{job}': ")
    line = " ".join((rest if found else error).split())
    return line if len(line) <= _MOST_LETTERS else line[:_MOST_LETTERS] + "\N{HORIZONTAL ELLIPSIS}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(name(one) for one in names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {data(more, _thousands)} more" if more > 0 else shown


def _best(reports: Sequence[Report]) -> str:
    """The jobs whose best structures rank highest; what is not plausible, or has no score, comes last."""
    ranked = [(report, best_sample(report["samples"])) for report in reports if report["samples"]]
    ranked.sort(key=lambda pair: pair[0]["name"])
    ranked.sort(key=lambda pair: rank_between_jobs(pair[1]), reverse=True)
    if not ranked:
        return '<p class="note">No structure is complete.</p>'
    titles = ("job", "tokens", "ranking score", "pTM", "ipTM", "pLDDT", "seed", "seconds", "structure")
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{title}</button></th>' for title in titles
    )
    rows = [_best_row(report, sample) for report, sample in ranked[:MOST_BEST]]
    table = framed(
        "The best structure of each job, by ranking score, a single chain by its pTM, what is not plausible "
        "last; a column's title sorts by it",
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>",
        kind="entries best sortable",
    )
    if len(ranked) == len(rows):
        return table
    shown, there = data(len(rows), markup.whole), data(len(ranked), _thousands)
    return f'{table}<p class="note">The {shown} best of {there} jobs; summary.csv has every structure.</p>'


def _best_row(report: Report, sample: Mapping[str, Any]) -> str:
    cells = [
        data(report["n_token"], markup.whole),
        *(_number(sample[key], markup.score) for key in ("ranking_score", "ptm", "iptm")),
        _number(sample["plddt"], markup.one_decimal),
        data(sample["seed"], markup.whole),
        _number(report["wall_s"], markup.seconds),
        f'<a href="{_link(report["name"], sample["cif"])}">{text(sample["cif"].rpartition("/")[2])}</a>',
    ]
    inner = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{name(report["name"])}{_mark(sample)}</th>{inner}</tr>'


def _mark(sample: Mapping[str, Any]) -> str:
    if is_plausible(sample):
        return ""
    why = text("; ".join(sample.get("problems", ())))
    return f'<span class="caution" title="{why}"> not plausible</span>'


def _link(job: str, file: str) -> str:
    # From the page's own folder: without the dot a name such as `a:b` would be an address.
    return text(f"./{quote(f'{job}/{file}', errors='replace')}")


def _lengths(reports: Sequence[Report]) -> str:
    drawn = [
        report
        for report in reports
        if report["n_token"] > 0 and math.isfinite(report["wall_s"]) and report["wall_s"] > 0
    ]
    if not drawn:
        return '<p class="note">No job is complete.</p>'
    by_device: dict[str, list[Point]] = {}
    for report in drawn:
        point = Point(report["name"], report["n_token"], report["wall_s"])
        by_device.setdefault(report["device"], []).append(point)
    devices = sorted(by_device, key=lambda device: (-len(by_device[device]), device))
    groups = [(f"method-{index}", by_device[device]) for index, device in enumerate(devices[:_MOST_DEVICES])]
    labels = [name(device) for device in devices[:_MOST_DEVICES]]
    others = [point for device in devices[_MOST_DEVICES:] for point in by_device[device]]
    if others:
        groups.append(("experiment", others))
        labels.append("other devices")
    legend = "".join(
        f'<li><span class="swatch {style}"></span>{label}: {data(len(points), _thousands)}</li>'
        for (style, points), label in zip(groups, labels, strict=True)
    )
    return (
        f'<div class="wide">{time_by_length(groups)}</div><ul class="legend">{legend}</ul>'
        '<p class="note">Both axes are logarithmic. Times are of all seeds of a job; jobs that lie together '
        "are one mark.</p>"
    )


class _Class(NamedTuple):
    """Jobs of like length."""

    label: str
    reports: Sequence[Report]


def _stages(reports: Sequence[Report]) -> str:
    timed = [report for report in reports if math.isfinite(report["wall_s"])]
    if not timed:
        return '<p class="note">No job is complete.</p>'
    legend = "".join(f'<li><span class="swatch {stage}"></span>{stage}</li>' for stage in STAGES)
    rows = "".join(map(_stage_row, [_Class("all jobs", timed), *_classes(timed)]))
    return (
        f'<ul class="legend">{legend}</ul><div class="bars">{rows}</div>'
        '<p class="note">Each bar is all of the time of its jobs; beside it the median job.</p>'
    )


def _classes(reports: Sequence[Report]) -> list[_Class]:
    """By the power of two up to which the tokens go."""
    found: dict[int, list[Report]] = {}
    for report in sorted(reports, key=lambda report: report["n_token"]):
        found.setdefault(max(report["n_token"] - 1, 0).bit_length(), []).append(report)
    return [_Class(f"up to {2**bits} tokens", group) for bits, group in found.items()]


def _stage_row(of: _Class) -> str:
    sums = {stage: _total(report["stages_s"].get(stage, 0.0) for report in of.reports) for stage in STAGES}
    whole = math.fsum(sums.values())
    shares = ", ".join(f"{stage} {data(sums[stage] / whole, _share)}" for stage in STAGES) if whole else ""
    median = statistics.median(report["wall_s"] for report in of.reports)
    memory = max(report["peak_memory_bytes"] for report in of.reports)
    return (
        f'<div class="times-row"><span>{of.label}: {data(len(of.reports), _thousands)}</span>'
        f'{stacked_bar(sums, whole)}<span class="total">{_number(median, markup.seconds)} s</span>'
        f'<span class="parts">{shares}; at most {data(memory, markup.gibibytes)} GiB</span></div>'
    )


def _workers(run: Run) -> str:
    campaign = _campaign(run)
    workers = campaign.get("workers", [])
    if not workers:
        device = run.get("device")
        return (
            f'<p class="note">One process, on {name(device)}.</p>' if device else '<p class="note">None.</p>'
        )
    devices = Counter(worker["device"] for worker in workers)
    told = ", ".join(
        f"{data(count, markup.whole)} on {name(device)}" for device, count in devices.most_common()
    )
    rows = [
        f'<tr><th scope="row">{data(worker["id"], markup.whole)}</th><td>{name(worker["node"])}</td>'
        f"<td>{name(worker['device'])}</td><td>{text(worker['state'])}</td>"
        f"<td>{data(worker['done'], markup.whole)}</td></tr>"
        for worker in workers[:_MOST_WORKERS]
    ]
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{title}</button></th>'
        for title in ("worker", "node", "device", "state", "jobs")
    )
    table = framed(
        "Each worker held the model and did one job at a time",
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>",
        kind="workers sortable",
    )
    lost = data(campaign.get("deaths", 0), markup.whole)
    return (
        f'<p class="note">{told}; lost on the way: {lost}.</p>'
        f"<details><summary>each worker</summary>{table}</details>"
    )


def _provenance(run: Run) -> str:
    cluster = _campaign(run).get("cluster", {})
    model, plan = run.get("model", {}), run.get("plan", {})
    command = ["flashbias-fold", *map(str, run.get("command", [])[1:])]
    given = {
        key: str(value) for key, value in run.get("arguments", {}).items() if value not in (None, False, "")
    }
    groups = {
        "command": f"<code>{text(shlex.join(command))}</code>" if "command" in run else "",
        "model": listed({"name": model.get("name"), "checkpoint": model.get("checkpoint")}),
        "plan": listed({"name": plan.get("name"), "rules": len(plan.get("rules", []))}) if plan else "",
        "options": listed(given),
        "cluster": listed({"address": cluster.get("address"), "nodes": cluster.get("nodes")}),
        "times": listed({"started": run.get("started"), "written": run.get("updated")}),
        "versions": listed(run.get("versions", {})),
    }
    return "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in groups.items() if value)

"""Write the tables and plots of the pages of benchmarks from the records: nobody copies a figure.

Between `<!-- KIND RECORD ... -->` and `<!-- end -->` a page has what BLOCKS makes of the record.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from flashbias_fold.bench.chart import Line, Panel, Point, chart

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
PAGES = (FOLDER / "README.md", FOLDER.parent / "benchmarks.md", FOLDER.parent / "campaigns.md")
NOT_MEASURED = "Not measured yet.\n"
STAGES = ("trunk", "diffusion", "confidence")
_PLACE = re.compile(r"(<!-- (\w+) (\S+)((?: \S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
_OURS = ("dense", "flashbias")
_REST = "everything else"
_SHOWN_KIND = 0.02  # of the whole, at any size and by any method, to have a line of its own
_MOST_CURVES = 9
_LATER_S = 20
_MEMORIES_GB = (24, 48, 80, 141)
_USABLE = 0.95  # of a GPU's memory: the rest is the driver's, or in pieces too small
_WIDTH = 120


def main() -> int:
    """Write them, or say whether they are as they should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a page or plot is not up to date"
    )
    check = parser.parse_args().check
    stale = [(path, text) for path, text in files() if not path.is_file() or path.read_text() != text]
    for path, text in stale:
        if check:
            print(f"{path.name} does not say what the records say", file=sys.stderr)
        else:
            path.write_text(text)
    return int(check and bool(stale))


def files() -> Iterable[tuple[Path, str]]:
    """What is made here, as it should be: the pages, and plots of records that bring none."""
    for page in PAGES:
        yield page, _PLACE.sub(_filled, page.read_text())
    for path in sorted(FOLDER.glob("profile-*.json")):
        yield path.with_suffix(".svg"), kinds_chart(_record(path))
    for path in sorted(FOLDER.glob("model-*.json")):
        if not path.with_suffix(".csv").is_file():
            yield path.with_suffix(".svg"), speed_chart(_record(path))


def _record(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _filled(place: re.Match[str]) -> str:
    begin, kind, name, rest, end = place.groups()
    data = read(name)
    return begin + (BLOCKS[kind](name, data, *rest.split()) if data else NOT_MEASURED) + end


def read(name: str) -> dict[str, Any] | None:
    """A record; None where nothing was measured."""
    path = FOLDER / f"{name}.json"
    return _record(path) if path.is_file() else None


# Triangle attention alone


def kernels(_: str, data: dict[str, Any], pass_name: str) -> str:
    """Medians in milliseconds, a line for each method, a column for each size; the largest error last."""
    rows = [row for row in data["rows"] if row["pass"] == pass_name]
    sizes = sorted({row["tokens"] for row in rows})
    names = list(dict.fromkeys(_method(row) for row in sorted(rows, key=lambda row: -row["tokens"])))
    found = {(_method(row), row["tokens"]): row for row in rows}
    lines = []
    for name in names:
        errors = [row["error"] for row in rows if _method(row) == name]
        cells = [_cell(found.get((name, size))) for size in sizes]
        lines.append((name, *cells, f"{max(errors):.1e}"))
    return table(("method", *(f"N = {size}" for size in sizes), "error"), lines)


def _method(row: dict[str, Any]) -> str:
    return row["method"] if row["rank"] is None else f"{row['method']} R = {row['rank']}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["median_ms"] is None:
        return "-"
    share = row["share_of_floor"]
    return f"{row['median_ms']:.3g}" + (f" ({100 * share:.0f} %)" if share else "")


# Campaigns


def throughput(_: str, data: dict[str, Any]) -> str:
    """Jobs an hour by the number of workers, and what handing them out costs."""
    rounds, options, handing_out = data["rounds"], data["options"], data["handing_out"]
    lines = [
        (
            words,
            _range([row[name]["per_hour"] for row in rounds]),
            f"{statistics.median(row[name]['per_hour'] / row['one']['per_hour'] for row in rounds):.2f}",
        )
        for name, words in (
            ("one", "one worker of one thread"),
            ("two", "two workers of one thread"),
            ("one_with_all_cores", f"one worker of {data['machine']['cores']} threads"),
        )
    ]
    where = f"{data['machine']['cpu']}, {data['machine']['cores']} cores; Ray {data['versions']['ray']}"
    changed = ", changed" if data["changed"] else ""
    said = (
        f"{where}. {options['jobs']} proteins of {options['tokens']} residues by the demonstration model, "
        f"{options['steps']} steps, in {len(rounds)} interleaved rounds. A worker waited "
        f"{1000 * handing_out['seconds_each']:.1f} ms for its next job while {handing_out['queued']:,} were "
        f"queued: {100 * handing_out['share_of_ten_seconds']:.2f} % of a job of ten seconds. Measured on "
        f"{data['date'][:10]} at commit {data['commit'][:12]}{changed}.{_note(data)}"
    )
    shown = table(("", "jobs an hour", "times as many"), lines)
    return f"{shown}\n{textwrap.fill(said, _WIDTH, break_on_hyphens=False)}\n"


# Whole predictions


@dataclass(frozen=True)
class Run:
    """A method at one size, as a full prediction would be.

    Attributes:
        tokens: The size.
        method: The method.
        rounds_s: Seconds by stage, one for each prediction; scaled, if these were shortened.
        measured: Cycles and steps that they had.
        kinds: Seconds and share of the floor by stage and kind of layer, scaled likewise.
        row: What the record says.
    """

    tokens: int
    method: str
    rounds_s: dict[str, list[float]]
    measured: tuple[int, int]
    kinds: dict[tuple[str, str], tuple[float, float | None]]
    row: dict[str, Any]

    @property
    def totals_s(self) -> list[float]:
        """Whole predictions."""
        return [sum(stages) for stages in zip(*self.rounds_s.values(), strict=True)]

    def median(self, part: str) -> float:
        """Of a stage, or of the whole."""
        return statistics.median(self.rounds_s.get(part) or self.totals_s)


def runs(data: dict[str, Any]) -> list[Run]:
    """Of a record of whole predictions, by size, the baseline first.

    A prediction of fewer cycles and steps is scaled: its trunk by the cycles, its diffusion by the steps. Of
    the kinds of layers, one that was not called in each cycle or step runs once, and is left as it is.
    """
    options, found = data["options"], []
    for row in data["rows"]:
        cycles, steps = row.get("cycles", options["cycles"]), row.get("steps", options["steps"])
        factors = {"trunk": options["cycles"] / cycles, "diffusion": options["steps"] / steps}
        often = {"trunk": cycles, "diffusion": steps}
        rounds = {
            stage: [seconds * factors.get(stage, 1.0) for seconds in row["parts"][stage]["rounds_s"]]
            for stage in STAGES
        }
        kinds = {}
        for layer in row["layers"]:
            stage, seconds, floor = layer["stage"], layer["seconds"], layer["floor_s"]
            each = layer["kind"] == _REST or layer["calls"] >= often.get(stage, 0)
            share = floor / seconds if floor and seconds else None
            kinds[stage, layer["kind"]] = seconds * (factors.get(stage, 1.0) if each else 1.0), share
        found.append(Run(row["tokens"], row["method"], rounds, (cycles, steps), kinds, row))
    return sorted(found, key=lambda run: (run.tokens, _order(data, run.method)))


def place(_: str, data: dict[str, Any]) -> str:
    """Where, with what and when, in one paragraph."""
    options, machine, versions = data["options"], data["machine"], data["versions"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    driver = f", driver {machine['driver']}" if "driver" in machine else ""
    packages = ", ".join(
        f"{package} {versions[package]}"
        for package in ("torch", "triton", "protenix", "cuequivariance-torch")
        if package in versions
    )
    changed = ", changed" if data["changed"] else ""
    said = (
        f"{where}{driver}; {packages}; LayerNorm: {data['layernorm']}. `{options['model']}` with "
        f"{data['weights']} weights, {options['dtype']}; {options['cycles']} cycles, {options['steps']} "
        f"steps, {options['samples']} samples. Measured on {data['date'][:10]} at commit "
        f"{data['commit'][:12]}{changed}.{_note(data)}"
    )
    return textwrap.fill(said, _WIDTH, break_on_hyphens=False) + "\n"


def _note(data: dict[str, Any]) -> str:
    return f" {data['note']}" if "note" in data else ""


def speed(name: str, data: dict[str, Any]) -> str:
    """A line for each method and size: seconds, how many times as fast, stages, memory; and the plot."""
    found = runs(data)
    base = {run.tokens: run for run in found if run.method == data["baseline"]}
    lines = [
        (
            run.tokens,
            run.method,
            _measured(data, run),
            _range(run.totals_s),
            _times(base.get(run.tokens), run, "total"),
            *(_three(run.median(stage)) for stage in STAGES),
            _times(base.get(run.tokens), run, "trunk"),
            _three(run.row["first_s"]) if run.row.get("first_s") else "",
            _peak(run.row),
        )
        for run in found
    ]
    columns = (
        "N", "method", "measured with", "seconds", "times as fast", *STAGES, "trunk: times as fast",
        "first call", "peak GiB",
    )  # fmt: skip
    kept = [index for index in range(len(columns)) if any(str(line[index]) for line in lines)]
    shown = table([columns[index] for index in kept], [[line[index] for index in kept] for line in lines])
    return shown + _not_run(data) + f"\n![{name}](benchmarks/{name}.svg)\n"


def _measured(data: dict[str, Any], run: Run) -> str:
    """Of a shortened prediction, what it had."""
    full = data["options"]["cycles"], data["options"]["steps"]
    return "" if run.measured == full else f"{run.measured[0]} cycles, {run.measured[1]} steps"


def _not_run(data: dict[str, Any]) -> str:
    """A sentence for each method that did not run, with the reason and the sizes."""
    sizes: dict[tuple[str, str], list[int]] = {}
    for entry in data.get("not_run", ()):
        sizes.setdefault((entry["method"], entry["reason"]), []).append(entry["tokens"])
    said = [
        f"{method}{'' if None in tokens else f' at N = {_listed(tokens)}'}: {reason}"
        for (method, reason), tokens in sizes.items()
    ]
    return f"\nNot run: {'; '.join(said)}.\n" if said else ""


def kinds(_: str, data: dict[str, Any]) -> str:
    """Seconds by stage and kind of layer, a column for each method and size, with the share of the whole."""
    found = [run for run in runs(data) if run.kinds]
    if not found:
        return NOT_MEASURED
    wholes = [sum(seconds for seconds, _ in run.kinds.values()) for run in found]
    lines = [
        (
            *key,
            *(
                f"{_three(run.kinds[key][0])} ({100 * run.kinds[key][0] / whole:.0f} %)"
                if key in run.kinds
                else ""
                for run, whole in zip(found, wholes, strict=True)
            ),
        )
        for key in _large_kinds(found)
    ]
    shown = {line[:2] for line in lines}
    rest = [sum(run.kinds[key][0] for key in run.kinds.keys() - shown) for run in found]
    lines.append(
        (
            "",
            "all others",
            *(
                f"{_three(seconds)} ({100 * seconds / whole:.0f} %)"
                for seconds, whole in zip(rest, wholes, strict=True)
            ),
        )
    )
    return table(("stage", "layers", *(f"{run.tokens}, {_short(run.method)}" for run in found)), lines)


def floors(_: str, data: dict[str, Any]) -> str:
    """The share of the floor that kinds of layers reach, a column for each method and size."""
    found = [run for run in runs(data) if run.kinds]
    lines = [
        (*key, *(_percent(run.kinds.get(key, (0.0, None))[1]) for run in found))
        for key in _large_kinds(found)
        if any(run.kinds.get(key, (0.0, None))[1] for run in found)
    ]
    columns = ("stage", "layers", *(f"{run.tokens}, {_short(run.method)}" for run in found))
    return table(columns, lines) if lines else "No rates of this machine are known.\n"


def launches(_: str, data: dict[str, Any]) -> str:
    """Kernels of one cycle and one step, and for which share of its time the GPU is busy with them."""
    lines = []
    for run in runs(data):
        for index, (what, stage) in enumerate((("cycle", "trunk"), ("step", "diffusion"))):
            window = run.row["launches"].get(what)
            if window is None:
                continue
            times = run.measured[index]
            wall_ms = 1e3 * statistics.median(run.row["parts"][stage]["rounds_s"]) / times
            share = min(window["busy_ms"] / wall_ms, 1.0)
            lines.append(
                (
                    run.tokens,
                    run.method,
                    what,
                    f"{window['count']:,}",
                    _three(window["busy_ms"]),
                    _three(wall_ms),
                    _percent(share),
                )
            )
    columns = ("N", "method", "of one", "kernels", "busy ms", "takes ms", "busy share")
    return table(columns, lines) if lines else "A CPU starts none.\n"


def targets(_: str, data: dict[str, Any], *others: str) -> str:
    """A line for each target: met or missed, by how much, and where the time of ours goes.

    Of a size that several records have, the last one counts.
    """
    pairs = _pairs(data)
    for other in filter(None, map(read, others)):
        pairs |= _pairs(other)
    pairs = dict(sorted(pairs.items()))
    lines = [
        (
            f"whole prediction at least 1.3 times as fast at N = {size}",
            *_at_least(pairs.get(size), "total", 1.3),
        )
        for size in (512, 1024, 2048)
    ]
    lines.append(("trunk at least 1.4 times as fast at N = 1024", *_at_least(pairs.get(1024), "trunk", 1.4)))
    slower = [size for size, (base, ours) in pairs.items() if ours.median("total") > base.median("total")]
    larger = [
        size
        for size, (base, ours) in pairs.items()
        if ours.row["peak_memory_bytes"] > base.row["peak_memory_bytes"]
    ]
    lines.append(("never slower at any N", *_nowhere(pairs, slower)))
    lines.append(("peak memory at most stock's at every N", *_nowhere(pairs, larger)))
    lines.append((f"first call at most {_LATER_S} s later than stock's", *_first(pairs)))
    return table(("target", "", "measured", "what ours spends most on"), lines)


def _pairs(data: dict[str, Any]) -> dict[int, tuple[Run, Run]]:
    """The baseline and the faster of ours, by size."""
    found = runs(data)
    pairs = {}
    for base in found:
        ours = [run for run in found if run.tokens == base.tokens and run.method in _OURS]
        if base.method == data["baseline"] and ours:
            pairs[base.tokens] = base, min(ours, key=lambda run: run.median("total"))
    return pairs


def _at_least(pair: tuple[Run, Run] | None, part: str, bar: float) -> tuple[str, ...]:
    if pair is None:
        return "not measured yet", "", ""
    ratio = pair[0].median(part) / pair[1].median(part)
    largest = sorted(pair[1].kinds.items(), key=lambda item: -item[1][0])[:3]
    whole = sum(seconds for seconds, _ in pair[1].kinds.values())
    spent = ", ".join(f"{kind} {100 * seconds / whole:.0f} %" for (_, kind), (seconds, _) in largest)
    return "met" if ratio >= bar else "missed", f"{ratio:.2f} times, {pair[1].method}", spent


def _nowhere(pairs: dict[int, Any], exceptions: list[int]) -> tuple[str, ...]:
    if not pairs:
        return "not measured yet", "", ""
    if exceptions:
        return "missed", f"not at N = {_listed(exceptions)}", ""
    return "met", f"at N = {_listed(pairs)}", ""


def _first(pairs: dict[int, tuple[Run, Run]]) -> tuple[str, ...]:
    """Of the first size, before which nothing was compiled."""
    told = [size for size, pair in pairs.items() if all(run.row.get("first_s") for run in pair)]
    if not told:
        return "not measured yet", "", ""
    base, ours = pairs[min(told)]
    later = ours.row["first_s"] - base.row["first_s"]
    return "met" if later <= _LATER_S else "missed", f"{later:+.1f} s at N = {base.tokens}", ""


def memory(_: str, data: dict[str, Any], *others: str) -> str:
    """Peaks of the baseline, from the first record, and of ours, from the others; and what the model says."""
    stock = {row["tokens"]: row for row in data["rows"] if row["method"] == data["baseline"]}
    ours = {
        row["tokens"]: row
        for other in filter(None, map(read, others))
        for row in other["rows"]
        if row["method"] == "dense"
    }
    needs = [_need(data, bias) for bias in ("stock", "dense")]
    lines = []
    for tokens, row in sorted(stock.items()):
        of_stock, of_ours = (f"{need.bytes_of(tokens) / 2**30:.2f}" for need in needs)
        measured, less = "", ""
        if tokens in ours:
            measured = _peak(ours[tokens])
            less = f"{100 * (1 - ours[tokens]['peak_memory_bytes'] / row['peak_memory_bytes']):.0f} %"
        lines.append((tokens, _peak(row), of_stock, measured, of_ours, less))
    return table(("N", "stock GiB", "by the model", "dense GiB", "by the model", "less"), lines)


def largest(_: str, data: dict[str, Any]) -> str:
    """The most tokens that fit GPUs of some sizes, by the model."""
    needs = [_need(data, bias) for bias in ("stock", "dense")]
    lines = [
        (f"{size} GB", *(f"{need.largest(int(_USABLE * size * 1e9)):,}" for need in needs))
        for size in _MEMORIES_GB
    ]
    return table(("memory of the GPU", "N, stock", "N, dense"), lines)


def _peak(row: dict[str, Any]) -> str:
    return f"{row['peak_memory_bytes'] / 2**30:.2f}"


def _need(data: dict[str, Any], bias: str) -> Any:
    """The model of memory that `predict` warns by, for what a record ran on a GPU."""
    import torch

    from flashbias_fold.protenix_adapter import environment

    os.environ.setdefault("LAYERNORM_TYPE", "torch")
    environment.prepare()
    from flashbias_fold.protenix_adapter.memory_model import Need
    from flashbias_fold.protenix_adapter.models import architecture, build_config

    options = data["options"]
    config = build_config(architecture(options["model"]))
    config.dtype = options["dtype"]
    attention = data["kernels"][data["baseline"]]["attention"]
    weights = 4 * data["parameters"]
    device = torch.device(options["device"])
    return Need.of(
        config,
        weights,
        options["samples"],
        device,
        bias=bias,
        attention=attention,
        recorded=data.get("trunk_recorded", False),
    )


def speed_chart(data: dict[str, Any]) -> str:
    """Seconds against size, a panel for the whole and for each stage."""
    found = runs(data)
    panels = []
    for part in ("total", *STAGES):
        lines = []
        for method in dict.fromkeys(run.method for run in found):
            own = [run for run in found if run.method == method]
            points = [(run.tokens, run.rounds_s.get(part) or run.totals_s) for run in own]
            spreads = [Point(x, statistics.median(y), min(y), max(y)) for x, y in points]
            lines.append(Line(method, tuple(spreads)))
        panels.append(Panel(part, lines))
    options = data["options"]
    return chart(
        f"Whole predictions by {options['model']}, {data['weights']} weights, {options['dtype']}",
        f"{data['machine']['gpu']}: {options['cycles']} cycles, {options['steps']} steps, "
        f"{options['samples']} samples",
        "tokens",
        "seconds",
        panels,
    )


def kinds_chart(data: dict[str, Any]) -> str:
    """Seconds by kind of layer against size, a panel for each method."""
    found = [run for run in runs(data) if run.kinds]
    keys = _large_kinds(found)[:_MOST_CURVES]
    panels = []
    for method in dict.fromkeys(run.method for run in found):
        own = [run for run in found if run.method == method]
        lines = []
        for key in keys:
            points = [(run.tokens, run.kinds[key][0]) for run in own if key in run.kinds]
            lines.append(Line(_label(key, keys), tuple(Point(x, y, y, y) for x, y in points)))
        panels.append(Panel(method, lines))
    options = data["options"]
    return chart(
        f"Where a prediction's time goes: {options['model']}, {data['weights']} weights, {options['dtype']}",
        f"{data['machine']['gpu']}: {options['cycles']} cycles, {options['steps']} steps, "
        f"{options['samples']} samples, scaled from shorter predictions",
        "tokens",
        "seconds",
        panels,
    )


def _label(key: tuple[str, str], keys: list[tuple[str, str]]) -> str:
    """The kind, with its stage where the same one is in another too."""
    stage, kind = key
    return kind if [other for _, other in keys].count(kind) == 1 else f"{kind} ({stage})"


def _large_kinds(found: list[Run]) -> list[tuple[str, str]]:
    """Those that matter somewhere, by their time at the largest size."""
    sizes: dict[tuple[str, str], float] = {}
    for run in found:
        whole = sum(seconds for seconds, _ in run.kinds.values())
        for key, (seconds, _) in run.kinds.items():
            if seconds >= _SHOWN_KIND * whole:
                sizes[key] = max(seconds, sizes.get(key, 0.0))
    return sorted(sizes, key=lambda key: -sizes[key])


def _order(data: dict[str, Any], method: str) -> tuple[bool, bool, str]:
    return method != data["baseline"], method in _OURS, method


def _short(method: str) -> str:
    return "stock" if method.startswith("stock-") else method


def _range(seconds: list[float]) -> str:
    middle = _three(statistics.median(seconds))
    return middle if len(seconds) == 1 else f"{middle} ({_three(min(seconds))} to {_three(max(seconds))})"


def _three(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _times(base: Run | None, run: Run, part: str) -> str:
    return "" if base is None else f"{base.median(part) / run.median(part):.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def table(columns: Iterable[str], lines: Iterable[Iterable[Any]]) -> str:
    """In Markdown."""
    rows = [list(columns), *(list(map(str, line)) for line in lines)]
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body]) + "\n"


BLOCKS: dict[str, Callable[..., str]] = {
    "table": kernels,
    "place": place,
    "speed": speed,
    "kinds": kinds,
    "floors": floors,
    "launches": launches,
    "targets": targets,
    "throughput": throughput,
    "memory": memory,
    "largest": largest,
}


if __name__ == "__main__":
    sys.exit(main())

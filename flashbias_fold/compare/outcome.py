"""What a comparison comes to over all entries: the body of `report.json`, with its verdict in words."""

from __future__ import annotations

import dataclasses
import statistics as means
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashbias_fold.compare import statistics
from flashbias_fold.compare.measure import CLOSENESS, CONFIDENCES, STAGES

FORMAT = 1
_PREFERRED = ("flashbias", "dense", "none")  # which method the verdict is about

Entry = Mapping[str, Any]
Value = Callable[[Mapping[str, Any]], float | None]
Judged = dict[str, statistics.Judgement]


def outcome(entries: Sequence[Entry], methods: Sequence[Mapping[str, Any]], noise: str) -> dict[str, Any]:
    """Verdict, speed and summary of a report.

    Args:
        entries: As in the report; at least one.
        methods: As in the report, the baseline first.
        noise: The key of the baseline under another seed.
    """
    keys = [method["key"] for method in methods]
    labels = {method["key"]: method["label"] for method in methods}
    predicted = {result["method"] for entry in entries for result in entry["results"]}
    others = [key for key in keys if key in predicted and key not in (keys[0], noise)]
    judged = _preferred(others, keys[0])
    judgements = {key: judgement(entries, key, noise) for key in others}
    return {
        "verdict": _verdict(judged, judgements, noise, labels, _warn_of_implausible(entries, labels)),
        "speed": {"method": judged, **_speed(entries, keys[0], judged)},
        "summary": [_summary(entries, key, judgements.get(key, {})) for key in keys],
    }


def judgement(entries: Sequence[Entry], key: str, noise: str) -> Judged:
    """Each measure that a method's sameness is judged by; of those that no entry has, none."""
    found = {}
    for name, (value, negligible) in _JUDGED.items():
        pairs = [(_of(entry, key, value), _of(entry, noise, value)) for entry in entries]
        both = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
        if both:
            changes, changed_by_noise = zip(*both, strict=True)
            found[name] = statistics.judged(changes, changed_by_noise, negligible)
    return found


def same(judged: Judged) -> bool | None:
    """Whether a method predicts the same within noise; nothing where the entries do not tell."""
    if not judged:
        return None
    verdicts = [one.same for one in judged.values()]
    return False if False in verdicts else None if None in verdicts else True


def in_words(judged: Judged) -> str:
    """The same, of a method that there is something to judge by."""
    is_same = same(judged)
    if is_same is None:
        return "cannot tell"
    if not is_same:
        return "not the same"
    within = all(one.noise is not None and one.change.mean <= one.noise.mean for one in judged.values())
    return "same within noise" if within else "same but for what is negligible"


def _preferred(keys: Sequence[str], baseline: str) -> str:
    return next((key for key in (*_PREFERRED, *keys) if key in keys), baseline)


# Values of a result


def _get(name: str) -> Value:
    return lambda result: result[name]


def _changed(name: str) -> Value:
    def value(result: Mapping[str, Any]) -> float | None:
        found = (result["change"] or {}).get(name)
        return None if found is None else abs(found)

    return value


def _close(target: str, name: str) -> Value:
    def value(result: Mapping[str, Any]) -> float | None:
        found = (result[target] or {}).get(name)
        return found["value"] if isinstance(found, Mapping) else found

    return value


def _lost(target: str, name: str) -> Value:
    """How far a score is below that of the same structure twice."""
    close = _close(target, name)

    def value(result: Mapping[str, Any]) -> float | None:
        found = close(result)
        return None if found is None else 1.0 - found

    return value


_MEASURES: dict[str, Value] = {
    **{name: _get(name) for name in (*CONFIDENCES, "wall_s", "peak_memory_bytes")},
    **{f"{name}_change": _changed(name) for name in (*CONFIDENCES, "pae")},
    **{f"{name}_to_stock": _close("to_stock", name) for name in CLOSENESS},
    **{f"{name}_to_truth": _close("to_truth", name) for name in CLOSENESS},
}
# What a method must not change by more than a second seed does, or than what is negligible: the last digit
# that people read of a score, a tenth of a bin of PAE. Of closeness it is what is lost of 1.
_JUDGED: dict[str, tuple[Value, float]] = {
    "ptm_change": (_changed("ptm"), 0.001),
    "iptm_change": (_changed("iptm"), 0.001),
    "plddt_change": (_changed("plddt"), 0.1),
    "pae_change": (_changed("pae"), 0.05),
    "lddt_ca_to_stock": (_lost("to_stock", "lddt_ca"), 0.001),
    "interface_to_stock": (_lost("to_stock", "interface"), 0.001),
}
_OF_ONE = tuple(name for name in _JUDGED if name.endswith("_to_stock"))


def _of(entry: Entry, key: str, value: Value) -> float | None:
    found = next((result for result in entry["results"] if result["method"] == key), None)
    return None if found is None else value(found)


def _values(entries: Sequence[Entry], key: str, value: Value) -> list[float]:
    return [found for entry in entries if (found := _of(entry, key, value)) is not None]


# Summary and speed


def _summary(entries: Sequence[Entry], key: str, judged: Judged) -> dict[str, Any]:
    measures = {
        name: dataclasses.asdict(statistics.interval(found))
        for name, value in _MEASURES.items()
        if (found := _values(entries, key, value))
    }
    results = [result for entry in entries for result in entry["results"] if result["method"] == key]
    stages = {
        stage: means.fmean(result["stages_s"][stage] for result in results) if results else 0.0
        for stage in STAGES
    }
    return {
        "method": key,
        "same": same(judged),
        "verdict": in_words(judged) if judged else None,
        "measures": measures,
        "stages_s": stages,
        "layers": _layers(results),
    }


def _layers(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each replaced layer did over all entries; a layer does the same in each."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        for layer in result["layers"]:
            by_name.setdefault(layer["name"], []).append(layer)
    found = []
    for name, layers in by_name.items():
        errors = [layer["certified_error"] for layer in layers if layer["certified_error"] is not None]
        found.append(
            {
                "name": name,
                **{field: layers[0][field] for field in ("way", "rank", "reach")},
                "mean_error": means.fmean(errors) if errors else None,
                "largest_error": max(errors, default=None),
                "fallbacks": sum(layer["fallbacks"] for layer in layers),
            }
        )
    return found


def _speed(entries: Sequence[Entry], baseline: str, judged: str) -> dict[str, Any]:
    def ratio(value: Value) -> dict[str, Any] | None:
        pairs = [(_of(entry, baseline, value), _of(entry, judged, value)) for entry in entries]
        both = [(theirs, ours) for theirs, ours in pairs if theirs and ours]
        if not both:
            return None
        found = statistics.ratio([theirs for theirs, _ in both], [ours for _, ours in both])
        return dataclasses.asdict(found)

    return {
        "wall_ratio": ratio(_get("wall_s")),
        "trunk_ratio": ratio(lambda result: result["stages_s"]["trunk"]),
        "memory_ratio": ratio(_get("peak_memory_bytes")),
    }


# The verdict


def _verdict(
    judged: str,
    judgements: Mapping[str, Judged],
    noise: str,
    labels: Mapping[str, str],
    warnings: Sequence[str],
) -> dict[str, Any]:
    mine = judgements.get(judged, {})
    return {
        "method": judged,
        "noise": noise,
        "same": same(mine),
        "headline": _headline(mine),
        "text": " ".join(
            [*warnings, *_sentences(mine, labels[judged]), *_of_the_others(judged, judgements, labels)]
        ),
        "level": statistics.LEVEL,
        "measures": [
            {
                "name": name,
                "change": dataclasses.asdict(_as_shown(name, one.change)),
                "noise": None if one.noise is None else dataclasses.asdict(_as_shown(name, one.noise)),
                "negligible": 1.0 - one.negligible if name in _OF_ONE else one.negligible,
                "same": one.same,
            }
            for name, one in mine.items()
        ],
    }


def _warn_of_implausible(entries: Sequence[Entry], labels: Mapping[str, str]) -> list[str]:
    """Say which structures cannot be: a comparison of these says little, however alike they are."""
    results = [(entry["name"], result) for entry in entries for result in entry["results"]]
    implausible = [(name, result) for name, result in results if not result["plausible"]]
    if not implausible:
        return []
    name, first = implausible[0]
    return [
        f"{len(implausible)} of {len(results)} structures are not plausible, such as {name} by "
        f"{labels[first['method']]}: what is said of them says little."
    ]


def _as_shown(name: str, found: statistics.Interval) -> statistics.Interval:
    """What is judged as lost is shown as a score."""
    if name not in _OF_ONE:
        return found
    return statistics.Interval(1.0 - found.mean, 1.0 - found.high, 1.0 - found.low, found.n)


def _headline(judged: Judged) -> str:
    if not judged:
        return "Nothing to judge by"
    said = in_words(judged).capitalize()
    return {
        False: f"{said}: more than a second seed changes",
        None: f"{said}: the entries differ too much, or are too few",
    }.get(same(judged), said)


def _sentences(judged: Judged, label: str) -> list[str]:
    """In numbers, what the verdict rests on most."""
    found = []
    if (ptm := judged.get("ptm_change")) and ptm.noise:
        n = ptm.change.n
        found.append(
            f"{label} changes pTM by {ptm.change.mean:.2g} on average over {n} "
            f"{'entry' if n == 1 else 'entries'}; another seed of stock changes it by {ptm.noise.mean:.2g}."
        )
    if (lddt := judged.get("lddt_ca_to_stock")) and lddt.noise:
        found.append(
            f"C-alpha LDDT to stock is {1 - lddt.change.mean:.3f}; that of another seed is "
            f"{1 - lddt.noise.mean:.3f}."
        )
    return found


def _of_the_others(judged: str, judgements: Mapping[str, Judged], labels: Mapping[str, str]) -> list[str]:
    others = [f"{labels[key]}: {in_words(one)}" for key, one in judgements.items() if key != judged and one]
    return [f"Of the others, {'; '.join(others)}."] if others else []

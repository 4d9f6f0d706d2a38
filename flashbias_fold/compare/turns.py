"""The predictions of one entry by every method in turn, and what they come to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biotite.structure import AtomArray

from flashbias_fold.compare import drawings, measure
from flashbias_fold.compare.assembly import read_assembly
from flashbias_fold.compare.methods import Method
from flashbias_fold.errors import InputError, JobError
from flashbias_fold.inputs import Job
from flashbias_fold.predict.prepare import fit_format, with_alignments
from flashbias_fold.predict.progress import Reporter
from flashbias_fold.predict.publish import publish
from flashbias_fold.protenix_adapter.engine import Engine, Prediction

WARM_UPS = 1
# A construct may have a few residues of its own.
_MOST_EXCHANGED = 0.1


@dataclass(frozen=True)
class Stage:
    """What predicts, for every entry the same.

    Attributes:
        engine: The loaded model.
        methods: The baseline first, its noise last.
        repeats: How often each prediction is timed.
        components: Of the jobs.
        reporter: Told where it is.
    """

    engine: Engine
    methods: list[Method]
    repeats: int
    components: Any
    reporter: Reporter

    @property
    def baseline(self) -> Method:
        """What the others are compared with."""
        return self.methods[0]

    @property
    def noise(self) -> Method:
        """The baseline under another seed."""
        return self.methods[-1]


class Turns:
    """The predictions of one entry: methods take turns, so that what drifts hits them all alike.

    Args:
        stage: What predicts.
        job: What is predicted.
        place: The entry's folder, where alignments are.
        new: Where structures are written.
        truth: The experimental structure.

    Attributes:
        amiss: What went wrong and did not end it, in words.
        warnings: What is otherwise than asked for, and no reason to doubt the results.
    """

    def __init__(self, stage: Stage, job: Job, place: Path, new: Path, truth: Path | None) -> None:
        self.amiss: list[str] = []
        self.warnings: list[str] = []
        self._stage, self._job, self._truth_path = stage, job, truth
        self._place, self._new = place, new
        self._runs: dict[str, measure.Runs] = {}
        self._structures: dict[str, measure.Structure] = {}
        self._layers: dict[str, list[dict[str, Any]]] = {}
        self._sizes: dict[str, int] = {}
        self._files: dict[str, dict[int, str]] = {}  # by method and rank
        self._truth = self._read_truth()

    def entry(self) -> dict[str, Any]:
        """Predict, and what the report says of it."""
        self._predict_all()
        stage, name = self._stage, self._job.name
        stage.reporter.stage("comparing")
        drawn = {key: one for key, one in self._structures.items() if key != stage.noise.key}
        results = [self._result(method) for method in stage.methods if method.key in self._structures]
        return {
            "name": name,
            **self._sizes,
            "truth": None if self._truth_path is None else self._truth_path.name,
            "results": results,
            "traces": drawings.traces(drawn, stage.baseline.key, self._truth),
            "pae_maps": drawings.maps(drawn),
        }

    def _read_truth(self) -> AtomArray | None:
        if self._truth_path is None:
            return None
        try:
            return read_assembly(self._truth_path)
        except InputError as error:
            self.amiss.append(str(error))
            return None

    def _predict_all(self) -> None:
        """Every method once to warm up, which gives the structures, then as often as was asked for."""
        stage = self._stage
        document = with_alignments(
            self._job, stage.baseline.settings, stage.engine.model, self._place, stage.reporter
        )
        stage.components.install_for(document)
        *timed, noise = stage.methods
        for turn in range(WARM_UPS + stage.repeats):
            # Nobody always follows the same one. Noise comes last and once: stock has warmed up for it.
            first = turn % len(timed)
            for method in (*timed[first:], *timed[:first], *((noise,) if turn == WARM_UPS else ())):
                if turn == 0 or method is noise or method.key in self._structures:
                    self._predict(method, document, turn)

    def _predict(self, method: Method, document: dict[str, Any], turn: int) -> None:
        stage = self._stage
        which = f"{turn} of {stage.repeats}" if turn else "warm-up"
        stage.engine.use(method.plan)
        try:
            prediction = stage.engine.predict(
                document, method.seed, _Named(stage.reporter, f"{method.label}, {which}")
            )
        except JobError as error:
            if method is stage.baseline:
                raise JobError(f"{method.label}: {error}") from error  # nothing to compare the others with
            self.amiss.append(f"{method.label}: {error}")
            self._structures.pop(method.key, None)
            return
        runs = self._runs.setdefault(method.key, measure.Runs())
        if method.key not in self._structures:
            self._keep(method, prediction)
            runs.write_s = self._write(method, prediction)
        if turn >= WARM_UPS:
            runs.add(prediction)

    def _keep(self, method: Method, prediction: Prediction) -> None:
        """Under one seed all are compared by the structure of the same noise: that which stock ranks best."""
        baseline = self._structures.get(self._stage.baseline.key)
        drawn = None if baseline is None or method is self._stage.noise else baseline.drawn
        self._structures[method.key] = measure.structure_of(prediction, drawn)
        self._layers[method.key] = measure.layers_of(prediction.layers)
        self._sizes = {"n_token": prediction.features.n_token, "n_atom": prediction.features.n_atom}

    def _write(self, method: Method, prediction: Prediction) -> float:
        """All structures of a prediction; returns the seconds that it took."""
        start = time.perf_counter()
        settings = fit_format(method.settings, self._job)
        written, _ = publish(prediction, self._job.name, method.seed, settings, self._new / method.key)
        self._files[method.key] = {sample.sample: sample.cif for sample in written.samples}
        for warning in written.warnings:
            self._stage.reporter.line(f"    {self._job.name}: {method.label}: {warning}")
            self.warnings.append(f"{method.label}: {warning}")
        return time.perf_counter() - start

    def _result(self, method: Method) -> dict[str, Any]:
        structure, first = self._structures[method.key], self._structures[self._stage.baseline.key]
        is_first = method is self._stage.baseline
        file = f"seed_{method.seed}/predictions/{self._files[method.key][structure.rank]}"
        return {
            "method": method.key,
            "structure": f"{self._job.name}/{method.key}/{file}",
            **structure.confidences,
            "plausible": not structure.problems,
            "problems": structure.problems,
            **self._runs[method.key].as_dict(),
            "change": None if is_first else measure.change(structure, first),
            "to_stock": None if is_first else measure.closeness(structure, first.atoms)[0],
            "to_truth": self._to_truth(structure, says=is_first),
            "layers": self._layers[method.key],
        }

    def _to_truth(self, structure: measure.Structure, *, says: bool) -> dict[str, Any] | None:
        """Closeness to experiment; what is amiss with that is said once."""
        if self._truth is None:
            return None
        try:
            found, what = measure.closeness(structure, self._truth)
        except InputError as error:
            self._truth = None
            self.amiss.append(f"{self._truth_path}: {error}")
            return None
        if says:
            self.amiss += [
                f"{self._truth_path}: {line}" for line in measure.chains_amiss(what, _MOST_EXCHANGED)
            ]
        return found


class _Named:
    """An observer that tells by which method a stage is."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self._reporter, self._name = reporter, name

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._reporter.stage(f"{self._name}: {name}")

    def step(self, done: int, total: int) -> None:
        """A step of it is done."""
        self._reporter.step(done, total)

"""Draw docs/demo_model.png: how the demonstration model was trained, and six of its predictions.

    python scripts/picture_demo.py --log data/demo/log.csv --predictions preds/evaluate_demo

Needs matplotlib (`pip install matplotlib`), which nothing else here does.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib
import numpy as np
from biotite import structure as struc
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from scipy.interpolate import CubicSpline

from flashbias_fold.accuracy import accuracy, read_structure
from flashbias_fold.predict.folder import JobFolder
from flashbias_fold.resources import resource

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHOWN = ("1igdA00", "1fexA00", "2fnbA00", "1p6rA00", "2mhrA00", "3mj0A00")
_EXPERIMENT, _PREDICTION = "#9a9a9a", "#d1495b"
_POINTS = 8  # of the smooth line, for each residue
_LIFT = 1.5  # Angstroms towards the eye: where the two coincide, both are seen


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", type=Path, required=True, help="the log that train_demo.py wrote")
    parser.add_argument(
        "--predictions", type=Path, required=True, help="the folder that evaluate_demo.py wrote"
    )
    parser.add_argument("--names", default=",".join(SHOWN), help="six domains")
    parser.add_argument("--out", type=Path, default=Path("docs/demo_model.png"))
    arguments = parser.parse_args()
    figure = plt.figure(figsize=(11, 7.2), dpi=110)
    grid = figure.add_gridspec(2, 4, width_ratios=(1.35, 1, 1, 1), wspace=0.12, hspace=0.16)
    curves(figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0]), arguments.log)
    for index, name in enumerate(arguments.names.split(",")):
        overlay(figure.add_subplot(grid[index // 3, 1 + index % 3]), name, arguments.predictions)
    figure.legend(
        handles=[
            plt.Line2D([], [], color=_EXPERIMENT, lw=4, label="experiment"),
            plt.Line2D([], [], color=_PREDICTION, lw=2, label="prediction"),
        ],
        loc="lower right",
        ncols=2,
        frameon=False,
    )
    figure.savefig(arguments.out, bbox_inches="tight")


def curves(loss: Axes, lddt: Axes, log: Path) -> None:
    """The losses and, below, the C-alpha LDDT of trained domains, over the steps that train the structure."""
    with log.open() as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "structure"]
    steps = [int(row["step"]) for row in rows]
    for column, label in (
        ("mse", "squared error"),
        ("smooth_lddt", "smooth LDDT"),
        ("distogram", "distogram"),
    ):
        loss.plot(steps, [float(row[column]) for row in rows], label=label, lw=1.2)
    loss.set_yscale("log")
    loss.set_ylabel("loss")
    loss.legend(frameon=False, fontsize=8)
    measured = [(int(row["step"]), float(row["lddt"])) for row in rows if row["lddt"]]
    lddt.plot(*zip(*measured, strict=True), color=_PREDICTION, marker=".")
    lddt.set_ylim(0, 1)
    lddt.set_ylabel("C-alpha LDDT of trained domains")
    lddt.set_xlabel("step")


def overlay(axes: Axes, name: str, predictions: Path) -> None:
    """The best prediction of a domain superposed on its experimental structure."""
    report = JobFolder(predictions / name).report()
    if report is None:
        raise SystemExit(f"error: {predictions / name} has no complete prediction")
    best = max(report["samples"], key=lambda sample: sample["ranking_score"])
    model = read_structure(predictions / name / best["cif"])
    truth = read_structure(resource("data", "truth", f"{name}.pdb.gz"))
    scores = accuracy(model, truth)
    fixed, moving = (atoms[atoms.atom_name == "CA"] for atoms in (truth, model))
    moved, _ = struc.superimpose(fixed, moving)
    centred = fixed.coord - fixed.coord.mean(axis=0)
    view = np.linalg.svd(centred, full_matrices=False)[2]  # the flattest side, so that least is hidden
    view[2] *= np.sign(np.linalg.det(view))  # a rotation, not a mirror image
    segments = [
        segment
        for atoms, width, colour, lift in ((fixed, 5.0, _EXPERIMENT, 0.0), (moved, 2.0, _PREDICTION, _LIFT))
        for segment in _segments((atoms.coord - fixed.coord.mean(axis=0)) @ view.T, width, colour, lift)
    ]
    segments.sort(key=lambda segment: segment[0])
    axes.add_collection(
        LineCollection(
            [line for _, line, _, _ in segments],
            linewidths=[width for _, _, width, _ in segments],
            colors=[colour for _, _, _, colour in segments],
            capstyle="round",
        )
    )
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.axis("off")
    numbers = f"LDDT {scores.lddt:.2f}, TM {scores.tm_score:.2f}, pTM {best['ptm']:.2f}"
    axes.set_title(f"{name}, {len(fixed)} residues\n{numbers}", fontsize=9)


def _segments(
    trace: np.ndarray, width: float, colour: str, lift: float
) -> list[tuple[float, np.ndarray, float, np.ndarray]]:
    """Depth, line, width and colour of the pieces of a smooth line; what is far away is paler."""
    at = np.arange(len(trace))
    fine = CubicSpline(at, trace)(np.linspace(0, len(trace) - 1, len(trace) * _POINTS))
    depth = fine[:, 2]
    far = (depth.max() - depth) / max(np.ptp(depth), 1e-6)
    paler = np.array(to_rgb(colour))[None] * (1 - 0.55 * far[:, None]) + 0.55 * far[:, None]
    return [
        (float(depth[i]) + lift, fine[i : i + 2, :2], width * (1.1 - 0.3 * float(far[i])), paler[i])
        for i in range(len(fine) - 1)
    ]


if __name__ == "__main__":
    main()

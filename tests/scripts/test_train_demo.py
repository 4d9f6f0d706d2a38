"""The training of the demonstration model, on the first residues of a handful of its domains."""

import copy
import csv
import functools
import gzip
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from biotite.structure import connect_via_residue_names
from biotite.structure.io.pdb import PDBFile
from conftest import ROOT
from lengths import at_length, only_in_full
from safetensors.torch import load_file

sys.path.insert(0, str(ROOT / "scripts"))
import demo_domains
import demo_examples
import train_demo
from train_demo import Order, Settings, Trainer

from flashbias_fold.pairformer import Plan
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.models import demo_model

TRUTH = ROOT / "data" / "truth"
# They are chosen even when cut: three are always, the others stay globular. A step takes a quarter of the
# time that it takes for the smallest whole domains.
NAMES = ("1g6xA00", "1hz6B00", "1igdA00", "1dv0A00", "1rzsA00", "2ppxA00")
RESIDUES = 24
HALF = at_length(20, 50)  # the steps before the kill, and after it
FEW = Settings(trained=3, unseen=1, strangers=2, noise_samples=2, pool_samples=1, pool_refresh=2, warmup=10)
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def domains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    for name in NAMES:
        shorten(TRUTH / f"{name}{demo_domains.SUFFIX}", folder)
    return folder


def shorten(path, folder):
    """Write the first residues of a domain under the same name."""
    structure = demo_domains.read_domain(path).structure
    _, numbers = np.unique(structure.res_id, return_inverse=True)
    content = PDBFile()
    content.set_structure(structure[numbers < RESIDUES])
    with gzip.open(folder / path.name, "wt") as file:
        content.write(file)


@pytest.fixture(scope="session")
def features(domains, tmp_path_factory):
    """A run folder in which the domains have been featurised."""
    out = tmp_path_factory.mktemp("features")
    demo_examples.prepare(domains, out, FEW.counts, FEW.seed)
    return out


@pytest.fixture
def run_folder(features, tmp_path):
    return shutil.copytree(features, tmp_path / "run")


@pytest.fixture(autouse=True)
def initial_weights_are_drawn_once(monkeypatch):
    """Else they would take longer than what most tests do with them."""
    monkeypatch.setattr(train_demo, "build_network", lambda *given: copy.deepcopy(build_network(*given)))


build_network = functools.cache(train_demo.build_network)


def trainer(folder, **changes):
    settings = replace(FEW, **changes)
    return Trainer(
        settings, folder, demo_examples.prepare(None, folder, settings.counts, 1), CPU, log_every=1
    )


def command(folder, **changes):
    options = {"out": folder, "device": "cpu", **vars(FEW), **changes}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, str(ROOT / "scripts" / "train_demo.py"), *flags]


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


# The script as a whole


@only_in_full
def test_from_scratch_then_killed_then_as_many_steps_from_the_checkpoint(run_folder):
    again = command(
        run_folder, structure_steps=2 * HALF, refinement_steps=0, confidence_steps=0, noise_samples=8,
        save_every=HALF, log_every=HALF // 5,
    )  # fmt: skip
    first = subprocess.Popen(again, stdout=subprocess.PIPE, text=True)
    assert any(line.startswith(f"saved structure step {HALF}") for line in first.stdout)
    first.kill()
    first.wait()
    second = subprocess.run(again, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert f"resumed at structure step {HALF}" in second.stdout
    rows = log_of(run_folder)
    assert [int(row["step"]) for row in rows] == list(range(HALF // 5, 2 * HALF + 1, HALF // 5))
    # It learns from scratch, and goes on learning where it was.
    for loss in ("mse", "distogram"):
        start, middle, end = (
            np.mean([float(row[loss]) for row in part]) for part in (rows[:2], rows[3:5], rows[8:])
        )
        assert start > 1.01 * middle > 1.01**2 * end, loss
    record = json.loads((run_folder / "training.json").read_text())
    assert (record["stage"], record["step"]) == ("structure", 2 * HALF)
    model = replace(demo_model(), checkpoint=run_folder / "demo.safetensors")
    Engine(model, Plan.for_bias("stock"), device=CPU, dtype="fp32", samples=1)  # every weight is there


def test_told_to_stop_it_saves_and_says_so_by_its_status(run_folder):
    running = subprocess.Popen(
        command(run_folder, structure_steps=1000, log_every=1), stdout=subprocess.PIPE, text=True
    )
    next(line for line in running.stdout if "step=2" in line)
    running.send_signal(signal.SIGTERM)
    rest = running.stdout.read()
    assert running.wait() == 3
    assert "saved structure step" in rest


@only_in_full
def test_two_processes_average_what_they_learn(run_folder):
    words = command(run_folder, structure_steps=2, refinement_steps=0, confidence_steps=0, log_every=1)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in log_of(run_folder)] == ["1", "2"]
    assert json.loads((run_folder / "training.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"seed": 2}, "other settings: seed"), ({"lr": 0.5, "clip": 2.0}, "other settings: clip, lr")],
)
def test_a_checkpoint_goes_on_only_with_its_settings(run_folder, changes, words):
    trainer(run_folder).save()
    with pytest.raises(SystemExit, match=words):
        trainer(run_folder, **changes).resume()


def test_without_features_it_asks_for_domains(tmp_path):
    with pytest.raises(SystemExit, match="no features yet: --domains is needed"):
        train_demo.main(["--out", str(tmp_path / "new")])


def test_features_for_other_numbers_of_domains_are_not_taken(run_folder):
    with pytest.raises(SystemExit, match="other numbers of domains"):
        trainer(run_folder, trained=2)


def test_too_few_domains_are_refused(domains, tmp_path):
    with pytest.raises(SystemExit, match="6 domains, too few that are trained, unseen, strangers"):
        demo_examples.prepare(domains, tmp_path, Settings().counts, 1)


# Stages


@pytest.fixture
def one_thread():
    """Several add up what they share in any order, and a rounding is enough to tell two runs apart."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("stage", at_length(["structure", "confidence"], train_demo.STAGES))
def test_a_resumed_run_is_the_run_that_never_stopped(run_folder, stage):
    steps = {f"{stage}_steps": 4}
    whole = trainer(run_folder, **steps)
    whole._start_stage(stage)
    for _ in range(2):
        whole._one_step()
    whole.save()
    for _ in range(2):
        whole._one_step()
    rest = trainer(run_folder, **steps)
    assert rest.resume()
    rest._pool = whole._pool  # of a stage that has one; it is made anew, with new noise
    for _ in range(2):
        rest._one_step()
    assert not changed(weights_of(whole.model.network), weights_of(rest.model.network))
    assert not changed(weights_of(whole.average), weights_of(rest.average))


PARTS = [("confidence", "confidence_head."), ("refinement", "diffusion_module.")]


@only_in_full
@pytest.mark.parametrize(("stage", "part"), PARTS)
def test_a_later_stage_trains_one_part_alone(run_folder, stage, part):
    run = trainer(run_folder)
    before = weights_of(run.model.network)
    run._start_stage(stage)
    for _ in range(3):
        run._one_step()
    moved = changed(before, weights_of(run.model.network))
    assert moved and all(name.startswith(part) for name in moved)


def test_the_structure_stage_leaves_the_confidence_head_alone(run_folder):
    run = trainer(run_folder)
    before = weights_of(run.model.network)
    for _ in range(3):
        run._one_step()
    parts = {name.partition(".")[0] for name in changed(before, weights_of(run.model.network))}
    assert "confidence_head" not in parts
    assert {"input_embedder", "msa_module", "pairformer_stack", "diffusion_module", "distogram_head"} <= parts


def test_weights_to_start_from_are_taken_and_their_record_kept(run_folder, tmp_path):
    other = trainer(run_folder, seed=5)
    other.out = tmp_path
    other.export()
    run = trainer(run_folder)
    run.start_from(tmp_path / "demo.safetensors")
    stored = load_file(tmp_path / "demo.safetensors")
    assert not changed(weights_of(run.model.network), {name: value.float() for name, value in stored.items()})
    assert run.record()["before"]["settings"]["seed"] == 5


@pytest.mark.parametrize("stage", at_length(["structure"], train_demo.STAGES))
def test_constants_are_neither_trained_nor_rounded(run_folder, tmp_path, stage):
    run = trainer(run_folder)
    before = weights_of(run.model.network)
    run._start_stage(stage)
    for _ in range(2):
        run._one_step()
    run.export()
    stored = load_file(run_folder / "demo.safetensors")
    exact = {name: value for name, value in stored.items() if value.dtype == torch.float32}
    assert exact.keys() == run.constants and "confidence_head.upper_bins" in exact
    assert not changed(exact, before)
    assert all(value.isfinite().all() for value in stored.values())


def test_the_average_forgets_where_a_stage_began(run_folder):
    run = trainer(run_folder)
    average, current = [torch.zeros(1)], [torch.ones(1)]
    for count in range(1000):
        run._move_average(average, current, torch.tensor(count))
    assert average[0].item() > 0.99  # a constant decay of 0.999 would be at 0.63


# Examples


@pytest.fixture(scope="module")
def example(features):
    return demo_examples.prepare(None, features, FEW.counts, 1)["trained"][0]


def test_turning_moves_residues_and_keeps_each_rigid(example):
    torch.manual_seed(0)
    before, after = example.features["ref_pos"], demo_examples.turned(example.features)["ref_pos"]
    residue = example.features["ref_space_uid"]
    same = residue[:, None] == residue[None]
    exact = "donot_use_mm_for_euclid_dist"
    moved = (
        torch.cdist(before, before, compute_mode=exact) - torch.cdist(after, after, compute_mode=exact)
    ).abs()
    assert moved[same].max() < 1e-4
    assert moved[~same].mean() > 0.1
    atoms = residue == 3
    handed = [torch.linalg.det((p[atoms] - p[atoms][0])[1:4]) for p in (before, after)]
    assert torch.allclose(handed[0], handed[1], atol=1e-3)  # turned, not mirrored


def test_bonds_are_those_of_the_chemistry(example, domains):
    structure = demo_domains.read_domain(domains / f"{example.name}.pdb.gz").structure
    structure = structure[structure.element != "H"]
    expected = connect_via_residue_names(structure).get_bond_count()
    sulphur = int(np.sum(structure.atom_name == "SG")) // 2  # disulphides are no part of a residue
    assert expected <= int(demo_examples.bonds(example).sum()) <= expected + sulphur


def test_near_pairs_are_bonds_and_the_angles_of_the_backbone(example):
    pairs = {tuple(pair) for pair in demo_examples.near_pairs(example).tolist()}
    bonded = {tuple(pair) for pair in demo_examples.bonds(example).nonzero().tolist()}
    assert bonded < pairs
    residue = example.features["atom_to_token_idx"]
    n = int(residue.max()) + 1
    # N-CA-C and CA-C-O in each residue; CA-C-N, O-C-N and C-N-CA between two.
    assert len(pairs - bonded) == 2 * n + 3 * (n - 1)
    assert all(0 <= residue[end] - residue[begin] <= 1 for begin, end in pairs - bonded)


def test_the_geometry_of_the_truth_is_right_wherever_it_lies_and_of_another_wrong(run_folder):
    run = trainer(run_folder)
    example = run.examples["trained"][0]
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    moved = torch.stack([example.coordinate, example.coordinate @ turn + 5.0])
    level = torch.tensor([0.1, 3.0])
    assert run._geometry(example, moved, level) < 1e-6
    assert run._geometry(example, 1.1 * moved, level) > 0.1


def test_a_mirror_image_has_the_same_lddt_and_another_rmsd(example):
    coordinate = torch.stack([example.coordinate, example.coordinate * torch.tensor([1.0, 1.0, -1.0])])
    assert demo_examples.alpha_lddt(example, coordinate) == 1
    assert demo_examples.alpha_rmsd(example, coordinate[:1]) < 1e-3
    assert demo_examples.alpha_rmsd(example, coordinate[1:]) > 3


def test_high_noise_is_drawn_as_often_as_said(run_folder):
    torch.manual_seed(0)
    drawn = trainer(run_folder)._noise((4000,), CPU)
    low, high = train_demo.HIGH_NOISE
    assert drawn.max() <= high
    # Protenix's own noise is as high in one sample of sixteen.
    expected = train_demo.HIGH_SHARE + (1 - train_demo.HIGH_SHARE) / 16
    assert (drawn > low).float().mean() == pytest.approx(expected, abs=0.03)


def test_refinement_sees_most_the_noise_of_bonds(run_folder):
    torch.manual_seed(0)
    run = trainer(run_folder)
    run._start_stage("refinement")
    drawn = run._noise((4000,), CPU)
    low, high = train_demo.LOW_NOISE
    within = ((drawn >= low) & (drawn <= high)).float().mean()
    # Of Protenix's own noise, 45 % lies there.
    expected = train_demo.LOW_SHARE + (1 - train_demo.LOW_SHARE - train_demo.REFINED_HIGH_SHARE) * 0.45
    assert within == pytest.approx(expected, abs=0.03)
    assert (drawn > train_demo.HIGH_NOISE[0]).float().mean() > 0.5 * train_demo.REFINED_HIGH_SHARE


def test_an_order_gives_everything_once_before_anything_again():
    order = Order(3)
    rounds = [[order.next("abcdefgh") for _ in range(8)] for _ in range(3)]
    assert all(sorted(turn) == list("abcdefgh") for turn in rounds)
    assert rounds[0] != rounds[1]
    other = Order(9)
    other.restore(order.state())
    assert [other.next("abcdefgh") for _ in range(5)] == [order.next("abcdefgh") for _ in range(5)]


# Domains


@pytest.fixture(scope="module")
def shipped():
    return demo_domains.read_domains(TRUTH)


def test_roles_are_disjoint_even_and_do_not_depend_on_the_order(shipped):
    roles = demo_domains.choose(shipped, 24, 8, 16)
    groups = [{domain.name for domain in getattr(roles, role)} for role in ("trained", "unseen", "strangers")]
    assert [len(group) for group in groups] == [24, 8, 16]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert set(demo_domains.ALWAYS_TRAINED) <= groups[0]
    assert sum(domain.size == "long" for domain in roles.trained) == 6
    folds = [domain.fold for domain in roles.trained]
    assert all(folds.count(fold) >= 6 for fold in demo_domains.FOLDS)
    backwards = demo_domains.choose(reversed(shipped), 24, 8, 16)
    assert [d.name for d in backwards.trained] == [d.name for d in roles.trained]


def test_labels_go_by_residue_and_atom_name(shipped):
    structure = next(domain.structure for domain in shipped if domain.name == "1igdA00")
    _, numbers = np.unique(structure.res_id, return_inverse=True)
    atoms = structure.copy()
    atoms.res_id = numbers + 1
    shuffled = np.random.default_rng(0).permutation(atoms.array_length())
    without = structure[structure.atom_name != "CB"]
    coordinates, known = demo_domains.labels(atoms[shuffled], without)
    assert np.array_equal(known, atoms.atom_name[shuffled] != "CB")
    assert np.array_equal(coordinates[known], structure.coord[shuffled][known])
    assert not coordinates[~known].any()


def test_the_shipped_lists_are_those_of_the_choice(shipped):
    """Every domain of the tables has its experimental structure, with the sequence and fold listed."""
    by_name = {domain.name: domain for domain in shipped}
    for table in ("entries.csv", "unseen.csv"):
        with (ROOT / "data" / "demo" / table).open() as file:
            for row in csv.DictReader(file):
                domain = by_name[row["name"]]
                assert (row["sequence"], row["fold"]) == (domain.sequence, domain.fold)
                assert int(row["length"]) == domain.length

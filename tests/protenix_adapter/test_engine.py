"""The engine against Protenix's own runner, on Protenix's real code."""

import copy
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import without_origin
from conftest import SEQUENCE, protein
from lengths import at_length

from flashbias_fold.errors import DeviceMemoryError, JobError, UsageError
from flashbias_fold.factorize.store import FactorFile
from flashbias_fold.pairformer import PairBiasAttention, Plan, Rule, TriangleAttention
from flashbias_fold.protenix_adapter import engine as engine_module
from flashbias_fold.protenix_adapter import swap
from flashbias_fold.protenix_adapter.engine import CHUNK_LADDER, Engine
from flashbias_fold.protenix_adapter.features import featurize, seed_everything
from flashbias_fold.protenix_adapter.models import build_config, demo_model
from flashbias_fold.protenix_adapter.writer import write_prediction
from flashbias_fold.resources import resource

CPU = torch.device("cpu")
# Two chains of one entity and a ligand, so that copies, tokens of single atoms and an ion are all there.
MIXED = {
    "name": "mixed",
    "sequences": [
        {"proteinChain": {"sequence": SEQUENCE[:14], "count": 2}},
        {"dnaSequence": {"sequence": "ACGT", "count": 1}},
        {"ligand": {"ligand": "CCD_GOL", "count": 1}},
        {"ion": {"ion": "MG", "count": 1}},
    ],
}


@pytest.fixture(scope="module")
def engine(random_model, components):
    """An engine for a way of computing the bias; one is kept for each."""
    made = {}

    def make(bias):
        if bias not in made:
            made[bias] = Engine(
                random_model, Plan.for_bias(bias), device=CPU, dtype="bf16", samples=2, steps=3, cycles=2
            )
        return made[bias]

    components.install_for(MIXED)
    return make


@pytest.fixture(scope="module")
def stock_files(random_model, components, tmp_path_factory):
    """What `runner.inference.infer_predict`, Protenix's own run, writes for a job."""
    from runner.inference import InferenceRunner, infer_predict

    from flashbias_fold.protenix_adapter import environment

    def run(document, seed):
        folder = tmp_path_factory.mktemp("stock")
        components.install_for(document)
        path = folder / "in.json"
        path.write_text(json.dumps([document]))
        config = build_config(random_model)
        config.load_checkpoint_dir, config.model_name = str(random_model.checkpoint.parent), "random"
        config.input_json_path, config.dump_dir, config.seeds = str(path), str(folder / "out"), [seed]
        config.sample_diffusion.N_sample, config.sample_diffusion.N_step, config.model.N_cycle = 2, 3, 2
        config.triangle_attention = config.triangle_multiplicative = "torch"
        with environment.swallow_stdout():
            infer_predict(InferenceRunner(config), config)
        written = folder / "out" / document["name"] / f"seed_{seed}" / "predictions"
        return {path.name: path.read_bytes() for path in written.iterdir()}

    return run


@pytest.mark.parametrize("document", [protein(), MIXED], ids=lambda document: document["name"])
@pytest.mark.parametrize("seed", at_length([101], [101, 7]))
def test_stock_writes_the_bytes_that_protenix_writes(engine, stock_files, tmp_path, document, seed):
    expected = stock_files(document, seed)
    assert len(expected) == 4
    prediction = engine("stock").predict(document, seed)
    write_prediction(prediction, document["name"], seed, tmp_path, formats=("cif",), pae=False)
    written = {path.name: path.read_bytes() for path in (tmp_path / "predictions").iterdir()}
    assert {name: without_origin(name, content) for name, content in written.items()} == expected
    for content in written.values():
        assert b"random" in content and b"DEMONSTRATION" not in content, "what model it is of"


class Watch:
    """Keeps the pair tensor that leaves the trunk, and notes what the observer is told."""

    def __init__(self, engine):
        self.pair = None
        self.stages = []
        self.steps = []
        self._handle = engine.network.pairformer_stack.register_forward_hook(self._keep)

    def _keep(self, module, arguments, output):
        self.pair = output[1].detach().clone()

    def stage(self, name):
        self.stages.append(name)

    def step(self, done, total):
        self.steps.append((self.stages[-1], done, total))

    def close(self):
        self._handle.remove()


def generators():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def run_watched(engine, document, seed):
    watch = Watch(engine)
    try:
        return engine.predict(document, seed, watch), watch, generators()
    finally:
        watch.close()


# Of seeds 0 to 9, some draw Monte-Carlo dropout in the trunk and some do not; both are met here.
@pytest.mark.parametrize("seed", at_length([0, 1], [0, 1, 2, 3]))
def test_dense_agrees_with_stock_and_draws_the_same_random_numbers(engine, seed):
    _, stock, after_stock = run_watched(engine("stock"), MIXED, seed)
    prediction, dense, after_dense = run_watched(engine("dense"), MIXED, seed)
    error = (dense.pair - stock.pair).norm() / stock.pair.norm()
    assert 0 < float(error) < 1e-4
    for a, b in zip(after_stock, after_dense, strict=True):
        assert str(a) == str(b) if not isinstance(a, torch.Tensor) else torch.equal(a, b)
    assert {layer["way"] for layer in prediction.layers} == {"dense"}


def test_the_bias_matters_to_this_model(engine):
    """Otherwise the agreement above would say nothing."""
    _, stock, _ = run_watched(engine("stock"), MIXED, 0)
    _, none, _ = run_watched(engine("none"), MIXED, 0)
    assert float((none.pair - stock.pair).norm() / stock.pair.norm()) > 1e-2


def test_a_seed_decides_everything_and_nothing_else_does(engine):
    first = engine("dense").predict(MIXED, 5).output["coordinate"]
    engine("dense").predict(protein(), 6)
    torch.rand(17)
    again = engine("dense").predict(MIXED, 5).output["coordinate"]
    other = engine("dense").predict(MIXED, 6).output["coordinate"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_stages_are_timed_and_steps_told(engine):
    prediction, watch, _ = run_watched(engine("dense"), protein(), 3)
    assert list(prediction.stages_s) == ["featurize", "trunk", "diffusion", "confidence"]
    assert all(seconds > 0 for seconds in prediction.stages_s.values())
    assert watch.stages == ["featurize", "trunk", "diffusion", "confidence"]
    assert watch.steps == [("trunk", 1, 2), ("trunk", 2, 2), *(("diffusion", n, 3) for n in (1, 2, 3))]
    assert prediction.peak_memory_bytes > 100e6


def test_every_pair_biased_attention_is_swapped_and_can_be_put_back(engine):
    network = engine("stock").network
    keys, stock_layers = list(network.state_dict()), dict(network.named_modules())
    handle = swap.apply(network, Plan.for_bias("dense"))
    modules = list(network.named_modules())
    triangles = {name for name, layer in modules if isinstance(layer, TriangleAttention)}
    others = {name for name, layer in modules if isinstance(layer, PairBiasAttention)}
    # 4 Pairformer blocks, one in the confidence head, one behind the MSA: two attentions each.
    assert len(triangles) == 12
    # The single representation is in the first five, and in 4 blocks of the diffusion transformer.
    assert len(others) == 9
    assert {layer["name"] for layer in handle.report()} == triangles | others
    assert list(network.state_dict()) == keys
    handle.restore()
    assert all(layer is stock_layers[name] for name, layer in network.named_modules())
    assert handle.report() == []


def test_out_of_memory_is_retried_with_smaller_chunks(engine, monkeypatch):
    """A GPU that runs out of memory cannot be had here, so its error is raised where the model begins."""
    dense = engine("dense")
    expected = dense.predict(MIXED, 4).output["coordinate"]
    real, seen = dense._forward, []

    def failing(features):
        seen.append(dense.config.infer_setting.chunk_size)
        if len(seen) < len(CHUNK_LADDER):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return real(features)

    monkeypatch.setattr(dense, "_forward", failing)
    prediction = dense.predict(MIXED, 4)
    assert seen[1:] == list(CHUNK_LADDER[1:])
    assert prediction.chunk_size == CHUNK_LADDER[-1]
    # Samples are drawn one at a time then, so only the trunk is comparable; it must be a sound structure.
    assert prediction.output["coordinate"].shape == expected.shape
    monkeypatch.undo()
    assert dense.predict(MIXED, 4).chunk_size is None
    assert torch.equal(dense.predict(MIXED, 4).output["coordinate"], expected)


def test_out_of_memory_to_the_end_is_said(engine, monkeypatch):
    def failing(features):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB.")

    monkeypatch.setattr(engine("dense"), "_forward", failing)
    with pytest.raises(DeviceMemoryError, match=r"also with chunks of 32 rows .*7\.00 GiB"):
        engine("dense").predict(MIXED, 4)


def test_coordinates_that_are_not_finite_fail_the_job(engine, monkeypatch):
    dense = engine("dense")
    real = dense._forward

    def poisoned(features):
        output = real(features)
        output["coordinate"][0, 3, 1] = float("nan")
        return output

    monkeypatch.setattr(dense, "_forward", poisoned)
    with pytest.raises(JobError, match="seed 9: the model gave coordinates that are not finite"):
        dense.predict(MIXED, 9)


def test_ready_features_give_what_a_prediction_gives_and_serve_again(engine, monkeypatch):
    dense = engine("dense")
    seed_everything(8)
    features = featurize(MIXED, dense.config)
    kept = copy.deepcopy(features.data["input_feature_dict"])
    runs = [dense.predict_features(features, 8) for _ in range(2)]
    assert list(runs[0].stages_s) == ["trunk", "diffusion", "confidence"]
    assert torch.equal(runs[0].output["coordinate"], runs[1].output["coordinate"])
    assert_same(features.data["input_feature_dict"], kept)
    monkeypatch.setattr(engine_module, "featurize", lambda *_: features)
    assert torch.equal(dense.predict(MIXED, 8).output["coordinate"], runs[0].output["coordinate"])


def test_ready_features_stay_where_they_are(engine):
    """Protenix moves a dictionary's tensors in place, also those of a dictionary within it."""
    from protenix.utils.torch_utils import to_device

    seed_everything(8)
    features = featurize(protein(), engine("stock").config)
    inputs = features.data["input_feature_dict"]
    inner = [value for value in inputs.values() if isinstance(value, dict)]
    assert inner, "the constraints"
    moved = to_device(engine_module._own_inputs(features, CPU).data["input_feature_dict"], "meta")
    for within in (moved, *(value for value in moved.values() if isinstance(value, dict))):
        assert {value.device.type for value in within.values() if torch.is_tensor(value)} == {"meta"}
    for within in (inputs, *inner):
        assert {value.device.type for value in within.values() if torch.is_tensor(value)} == {"cpu"}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same(found[key], value)
        elif torch.is_tensor(value):
            assert torch.equal(found[key], value), key


def test_other_weights_need_no_checkpoint(random_model):
    nowhere = replace(random_model, checkpoint=Path("nowhere.pt"))

    def initialise(network):
        for parameter in network.parameters():
            parameter.data.fill_(0.25)

    made = Engine(
        nowhere, Plan.for_bias("dense"), device=CPU, dtype="fp32", samples=1, steps=1, cycles=1,
        initialise=initialise,
    )  # fmt: skip
    assert all(bool((parameter == 0.25).all()) for parameter in made.network.parameters())
    assert not made.network.training


def test_building_a_model_leaves_the_generators_alone(random_model):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = generators()
    Engine(random_model, Plan.for_bias("stock"), device=CPU, dtype="fp32", samples=1, steps=1, cycles=1)
    for a, b in zip(before, generators(), strict=True):
        assert str(a) == str(b) if not isinstance(a, torch.Tensor) else torch.equal(a, b)


def test_pdb_and_pae_are_written_on_demand(engine, tmp_path):
    from biotite.structure.io import pdb, pdbx

    prediction = engine("dense").predict(MIXED, 1)
    prediction.output["coordinate"] *= 50 / prediction.output["coordinate"].abs().max()
    written = write_prediction(prediction, "mixed", 1, tmp_path, formats=("cif", "pdb"), pae=True)
    assert written.warnings == []
    samples = written.samples
    assert [sample.sample for sample in samples] == [0, 1]
    assert samples[0].ranking_score >= samples[1].ranking_score
    folder = tmp_path / "predictions"
    for sample in samples:
        cif = pdbx.get_structure(pdbx.CIFFile.read(folder / sample.cif), model=1, use_author_fields=False)
        flat = pdb.PDBFile.read(Path(folder, sample.cif).with_suffix(".pdb")).get_structure(model=1)
        assert np.abs(cif.coord - flat.coord).max() < 1e-3
        assert (cif.res_name == flat.res_name).all() and (cif.chain_id == flat.chain_id).all()
        with np.load(folder / f"mixed_pae_sample_{sample.sample}.npz") as pae:
            n_token = prediction.features.n_token
            assert pae["pae"].shape == pae["pde"].shape == (n_token, n_token)
            assert pae["token_chain"].shape == (n_token,)
            assert set(pae["token_chain"]) == set(cif.chain_id)


@pytest.mark.parametrize("formats", [("pdb",), ("cif", "pdb")], ids="+".join)
def test_a_structure_without_room_in_a_pdb_file_is_written_as_cif(engine, tmp_path, formats):
    """Of two samples one has room: each is in the format that can be, and what differs is said."""
    prediction = engine("dense").predict(MIXED, 1)
    places = prediction.output["coordinate"]
    places *= 50 / places.abs().max()
    ranking = [float(said["ranking_score"]) for said in prediction.output["summary_confidence"]]
    far = ranking.index(max(ranking))
    places[far] *= 1000 / places[far].abs().max()
    written = write_prediction(prediction, "mixed", 1, tmp_path, formats=formats, pae=False)
    both = len(formats) == 2
    assert [sample.cif for sample in written.samples] == [
        "mixed_sample_0.cif",
        f"mixed_sample_1.{'cif' if both else 'pdb'}",
    ]
    structures = {path.name for path in (tmp_path / "predictions").iterdir() if path.suffix != ".json"}
    assert structures == {"mixed_sample_0.cif", "mixed_sample_1.pdb"} | (
        {"mixed_sample_1.cif"} if both else set()
    )
    (warning,) = written.warnings
    assert warning == (
        "seed 1, sample 0: in mmCIF alone, as the PDB format has no room for a coordinate beyond 1000 A"
    )


# Plans whose rules hold for some sizes and devices

SMALL, LARGE = protein("small", SEQUENCE[:12]), protein("large", SEQUENCE[:20])
FACTORS = Rule("*.tri_att_*", "lowrank", 4, 1.0, reach=2)
BY_SIZE = Plan("by size", (Rule("*", "dense", gpu="cpu", tokens=(1, 15)), Rule("conf*", "stock"), FACTORS))


def ways(prediction):
    return {layer["way"] for layer in prediction.layers if "tri_att" in layer["name"]}


@pytest.fixture
def changing(engine):
    """The engine of `dense`, for other plans; its own is put back."""
    yield engine("dense")
    engine("dense").use(Plan.for_bias("dense"))


def test_layers_change_with_the_size_and_change_back(changing, random_model):
    expected = {}
    for document, rules in ((SMALL, (Rule("*", "dense"),)), (LARGE, BY_SIZE.rules[1:])):
        alone = Engine(
            random_model, Plan("alone", rules), device=CPU, dtype="fp32", samples=2, steps=3, cycles=2
        )
        expected[document["name"]] = alone.predict(document, 1)
    changing.use(BY_SIZE)
    for document in (SMALL, LARGE, LARGE, SMALL):
        found, right = changing.predict(document, 1), expected[document["name"]]
        assert torch.equal(found.output["coordinate"], right.output["coordinate"])
        assert found.layers == right.layers
        assert ways(found) == ({"dense"} if document is SMALL else {"lowrank"})
        assert any(name["name"].startswith("confidence") for name in found.layers) == (document is SMALL)


def test_the_size_decides_for_ready_features_too(changing):
    changing.use(BY_SIZE)
    for document, expected in ((LARGE, {"lowrank"}), (SMALL, {"dense"})):
        seed_everything(1)
        assert ways(changing.predict_features(featurize(document, changing.config), 1)) == expected


def test_layers_are_put_only_when_the_rules_change(changing, monkeypatch):
    put, apply = [], swap.apply

    def noted(model, plan, network_of):
        put.append(plan)
        return apply(model, plan, network_of)

    monkeypatch.setattr(swap, "apply", noted)
    changing.use(BY_SIZE)
    changing.predict(SMALL, 1)
    put.clear()
    for document in (LARGE, LARGE, SMALL, SMALL, LARGE):
        changing.predict(document, 1)
    assert [plan.rules for plan in put] == [BY_SIZE.rules[1:], BY_SIZE.rules, BY_SIZE.rules[1:]]
    # Who looks at layers before a prediction sees those for the size of the last one.
    changing.use(BY_SIZE)
    changing.predict(LARGE, 1)
    assert len(put) == 4 and put[-1].rules == BY_SIZE.rules[1:]


def test_a_condition_on_the_device_is_looked_at(changing, monkeypatch):
    plan = Plan("by device", (Rule("*", "dense", gpu="NVIDIA H200*"), Rule("*.tri_att_*", "stock")))
    changing.use(plan)
    assert ways(changing.predict(SMALL, 1)) == set()
    monkeypatch.setattr(changing, "_gpu", "NVIDIA H200 NVL")
    assert ways(changing.predict(SMALL, 1)) == {"dense"}
    monkeypatch.setattr(changing, "_gpu", "NVIDIA H100")
    assert ways(changing.predict(SMALL, 1)) == set()


def test_a_retry_with_smaller_chunks_keeps_the_layers(changing, monkeypatch):
    changing.use(BY_SIZE)
    changing.predict(SMALL, 1)
    real, seen = changing._forward, []

    def failing(features):
        seen.append(changing.swap)
        if len(seen) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return real(features)

    monkeypatch.setattr(changing, "_forward", failing)
    prediction = changing.predict(LARGE, 1)
    assert len(seen) == 2 and seen[0] is seen[1] and prediction.chunk_size == CHUNK_LADDER[1]
    assert ways(prediction) == {"lowrank"}


@pytest.mark.parametrize("times", [1, len(CHUNK_LADDER)])
def test_running_out_of_memory_while_layers_are_put_leaves_nothing_half_done(changing, monkeypatch, times):
    changing.use(BY_SIZE)
    changing.predict(SMALL, 1)
    put_all, left = swap._put_all, [None] * times

    def failing(*arguments):
        put_all(*arguments)
        if left:
            left.pop()
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(swap, "_put_all", failing)
    if times == 1:
        assert ways(changing.predict(LARGE, 1)) == {"lowrank"}
    else:
        with pytest.raises(DeviceMemoryError):
            changing.predict(LARGE, 1)
    assert not left and ways(changing.predict(SMALL, 1)) == {"dense"}


def test_a_plan_that_is_wrong_somewhere_is_refused_at_once(changing, tmp_path):
    """Not when, hours later, an input has the size; the layers are the stock ones then."""
    idle = Plan("idle", (Rule("*", "dense"), Rule("*.tri_att_*", "stock", tokens=(1, 9))))
    with pytest.raises(UsageError, match="decides for no layer of the model"):
        changing.use(idle)
    assert changing.predict(LARGE, 1).layers == []
    networks = FactorFile.load(resource("data", "demo", "factors.safetensors"))
    networks.model, networks.weights = changing.model.name, changing.model.weights
    networks.save(tmp_path / "f.safetensors")
    far = Rule("*.tri_att_*", "neural", 99, 1.0, 0, tmp_path / "f.safetensors", tokens=(5000, None))
    with pytest.raises(UsageError, match="asks for rank 99"):
        changing.use(Plan("far", (far, Rule("*", "dense"))))
    assert changing.predict(LARGE, 1).layers == []


def test_networks_are_read_once(monkeypatch, components):
    plan = Plan.load(resource("configs", "plans", "demo.yaml"))
    plan = replace(plan, rules=(replace(plan.rules[0], gpu="cpu", tokens=(1, 15)), *plan.rules[1:]))
    load, loaded = FactorFile.load, []
    monkeypatch.setattr(FactorFile, "load", lambda path: loaded.append(path) or load(path))
    made = Engine(demo_model(), plan, device=CPU, dtype="fp32", samples=1, steps=1, cycles=1)
    components.install_for(LARGE)
    for document, expected in ((SMALL, {"dense"}), (LARGE, {"dense", "neural"})) * 2:
        assert ways(made.predict(document, 1)) == expected
    assert len(loaded) == 1

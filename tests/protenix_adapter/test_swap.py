"""What a plan replaces in Protenix's models, and what diffusion keeps from step to step."""

from collections import Counter

import pytest
import torch
from conftest import protein

from flashbias_fold.errors import UsageError
from flashbias_fold.pairformer import PairBiasAttention, PairformerBlock, Plan, Rule, TriangleAttention
from flashbias_fold.protenix_adapter import environment, swap
from flashbias_fold.protenix_adapter.engine import Engine
from flashbias_fold.protenix_adapter.initial_weights import uninitialised
from flashbias_fold.protenix_adapter.models import Model, build_config, checkpoint_path

CPU = torch.device("cpu")
IN_DIFFUSION, REST = "diffusion_module.*", Rule("*", "stock")
DENSE = Plan("dense there", (Rule(IN_DIFFUSION, "dense"), REST))
STOCK = Plan.for_bias("stock")
SAMPLES, STEPS, LAYERS = 3, 3, 4


@pytest.fixture(scope="module")
def engine(random_model, components):
    """Stock, for plans that are put on it; the trunk's dropout and its random numbers come from the seed."""
    components.install_for(protein())
    return Engine(random_model, STOCK, device=CPU, dtype="fp32", samples=SAMPLES, steps=STEPS, cycles=1)


@pytest.fixture
def with_plan(engine):
    """Predict with a plan; Protenix's own settings and layers are put back."""
    network = engine.network
    settings = (
        network.enable_diffusion_shared_vars_cache,
        network.enable_efficient_fusion,
        dict(engine._chunks),
    )

    def predict(plan, *, cache=True, fusion=True, chunk=5, seed=1):
        network.enable_diffusion_shared_vars_cache, network.enable_efficient_fusion = cache, fusion
        engine._chunks["sample_diffusion_chunk_size"] = chunk
        engine.use(plan)
        try:
            return engine.predict(protein(), seed)
        finally:
            engine.use(STOCK)

    yield predict
    network.enable_diffusion_shared_vars_cache, network.enable_efficient_fusion = settings[:2]
    engine._chunks = settings[2]


@pytest.fixture
def attended(engine):
    """What the diffusion transformer gives at each step of all predictions, taken out as one."""
    outputs = []
    hook = engine.network.diffusion_module.diffusion_transformer.register_forward_hook(
        lambda module, args, output: outputs.append(output.flatten())
    )

    def take():
        found = torch.cat(outputs)
        outputs.clear()
        return found

    yield take
    hook.remove()


@pytest.fixture
def made(monkeypatch):
    """How often layers made their exact bias."""
    count = Counter()
    exact = PairBiasAttention._exact

    def counted(layer, z, fused):
        count["fused" if fused else "plain"] += 1
        return exact(layer, z, fused)

    monkeypatch.setattr(PairBiasAttention, "_exact", counted)
    return count


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("chunk", [5, 2])
def test_diffusion_looks_at_the_pairs_once_and_gives_what_stock_gives(
    with_plan, attended, made, cache, fusion, chunk
):
    options = {"cache": cache, "fusion": fusion, "chunk": chunk}
    with_plan(STOCK, **options)
    expected = attended()
    prediction = with_plan(DENSE, **options)
    assert relative(attended(), expected) < 1e-5
    # All steps of all chunks of samples, by the first look of each layer.
    assert made == {"fused" if fusion else "plain": LAYERS}
    exact = {"way": "dense", "rank": None, "reach": None, "certified_error": 0.0, "fallbacks": 0}
    assert prediction.layers == [
        {"name": f"diffusion_module.diffusion_transformer.blocks.{n}.attention_pair_bias"} | exact
        for n in range(LAYERS)
    ]


def test_the_bias_matters_to_diffusion(with_plan, attended, monkeypatch):
    """Otherwise the agreement above would say nothing."""
    with_plan(STOCK)
    expected = attended()
    monkeypatch.setattr(PairBiasAttention, "_bias", lambda *_: {})
    with_plan(DENSE)
    assert relative(attended(), expected) > 1e-2


def test_each_prediction_and_seed_looks_anew(with_plan, engine, made):
    """In one swap: each has a pair representation of its own, whatever was before."""
    expected = {seed: with_plan(DENSE, seed=seed).output["coordinate"] for seed in (2, 1)}
    made.clear()
    engine.use(DENSE)
    for seed in (1, 2, 1):
        assert torch.equal(engine.predict(protein(), seed).output["coordinate"], expected[seed])
    assert made["fused"] == 3 * LAYERS
    engine.use(STOCK)


def test_factors_in_diffusion_are_made_once_and_measured(with_plan, made):
    plan = Plan("factors", (Rule(IN_DIFFUSION, "lowrank", 6, 1.0), REST))
    prediction = with_plan(plan, chunk=1)
    assert made["fused"] == LAYERS
    for layer in prediction.layers:
        assert (layer["way"], layer["rank"], layer["fallbacks"]) == ("lowrank", 6, 0)
        assert 1e-5 < layer["certified_error"] < 1.0
    strict = with_plan(Plan("strict", (Rule(IN_DIFFUSION, "lowrank", 1, 1e-7), REST)), chunk=1)
    assert {(layer["certified_error"], layer["fallbacks"]) for layer in strict.layers} == {(0.0, 1)}
    dense = with_plan(DENSE, chunk=1)
    assert torch.equal(strict.output["coordinate"], dense.output["coordinate"])


@pytest.mark.parametrize("fusion", [True, False])
def test_layers_that_stay_stock_get_what_stock_gives_them(with_plan, attended, made, fusion):
    """Where only some are replaced, the others go on to look at the pairs in every step."""
    plan = Plan("some", (Rule("diffusion_module.*.blocks.[13].*", "dense"), REST))
    with_plan(STOCK, fusion=fusion)
    expected = attended()
    with_plan(plan, fusion=fusion)
    assert relative(attended(), expected) < 1e-5
    assert sum(made.values()) == 2


def test_steps_stop_copying_what_nobody_looks_at(with_plan, engine):
    """From the second step on the conditioning is not copied, and not normalised either."""
    seen, kept = [], []
    hooks = [
        engine.network.diffusion_module.normalize.register_forward_hook(lambda *_: seen.append("normalised")),
        engine.network.diffusion_module.diffusion_transformer.register_forward_pre_hook(
            lambda _, args, given: kept.append(given["z"].data_ptr()), with_kwargs=True
        ),
    ]
    try:
        with_plan(DENSE)
        assert seen == ["normalised"]
        assert len(set(kept[1:])) == 1 and len(kept) == STEPS
    finally:
        for hook in hooks:
            hook.remove()


def test_nothing_is_kept_when_diffusion_ends(with_plan, engine):
    """The confidence head needs the memory."""
    held = []

    def look(*_):
        layers = [layer for layer in engine.network.modules() if isinstance(layer, PairBiasAttention)]
        held.extend(layer._keep._of for layer in layers if layer._keep is not None)

    hook = engine.network.confidence_head.register_forward_pre_hook(look)
    with_plan(DENSE)
    hook.remove()
    assert held == [{}] * LAYERS


def test_an_error_in_a_step_leaves_no_source_behind(engine, monkeypatch):
    def failing(*_, **__):
        raise ZeroDivisionError

    engine.use(DENSE)
    with pytest.raises(ZeroDivisionError), monkeypatch.context() as patched:
        patched.setattr(engine.network.diffusion_module, "f_forward", failing)
        engine.predict(protein(), 1)
    (denoising,) = {id(layer._keep): layer._keep for layer in engine.network.modules()
                    if isinstance(layer, PairBiasAttention)}.values()  # fmt: skip
    assert denoising.source is None
    engine.use(STOCK)


def test_restore_leaves_no_trace(engine):
    network = engine.network
    keys, modules = list(network.state_dict()), dict(network.named_modules())
    hooks = {name: hooks_of(module) for name, module in modules.items()}
    for plan in (Plan.for_bias("dense"), Plan.for_bias("none"), DENSE):
        handle = swap.apply(network, plan)
        assert list(network.state_dict()) == keys
        assert any(module is not modules[name] for name, module in network.named_modules())
        handle.restore()
        assert list(dict(network.named_modules())) == list(modules)
        assert all(module is modules[name] for name, module in network.named_modules())
        assert {name: hooks_of(module) for name, module in network.named_modules()} == hooks
        assert handle.report() == []


def hooks_of(module):
    names = (name for name in vars(module) if "hooks" in name)
    return {name: list(getattr(module, name)) for name in names if getattr(module, name) is not None}


def test_weights_may_be_loaded_before_or_after(engine, with_plan):
    network = engine.network
    state = {name: value.clone() for name, value in network.state_dict().items()}
    expected = with_plan(DENSE).output["coordinate"]
    network.load_state_dict({name: torch.zeros_like(value) for name, value in state.items()})
    engine.use(DENSE)
    network.load_state_dict(state)
    assert torch.equal(engine.predict(protein(), 1).output["coordinate"], expected)
    engine.use(STOCK)


def test_the_ablation_is_one_of_triangles(engine):
    """`--bias none` leaves out their bias, and nothing else of the model."""
    network = engine.network
    handle = swap.apply(network, Plan.for_bias("none"))
    assert {layer["way"] for layer in handle.report()} == {"none"}
    assert all(".tri_att_" in layer["name"] for layer in handle.report())
    assert not any(isinstance(layer, PairBiasAttention) for layer in network.modules())
    handle.restore()


def test_a_pattern_sees_all_layers_and_no_atoms(engine):
    handle = swap.apply(engine.network, Plan("x", (Rule("*pair_bias", "lowrank", 4, 0.5), REST)))
    names = [layer["name"] for layer in handle.report()]
    handle.restore()
    assert Counter(name.split(".")[0] for name in names) == {
        "pairformer_stack": 4,
        "confidence_head": 1,
        "diffusion_module": 4,
    }
    with pytest.raises(UsageError, match="'\\*atom\\*' decides for no layer of the model"):
        swap.check(engine.network, Plan("x", (Rule("*atom*", "dense"),)))


ALL, TRIANGLES = "*", "*.tri_att_*"


@pytest.mark.parametrize(
    "rules",
    [
        # What comes first holds for some inputs only.
        (Rule(ALL, "dense", tokens=(1, 1024)), Rule(TRIANGLES, "stock")),
        (Rule(ALL, "dense", gpu="NVIDIA H200"), Rule(TRIANGLES, "stock")),
        (Rule(ALL, "dense", gpu="NVIDIA H200"), Rule(TRIANGLES, "stock", gpu="NVIDIA*")),
        (Rule(ALL, "dense", gpu="a"), Rule(ALL, "dense", gpu="a?"), Rule(TRIANGLES, "stock", gpu="a*")),
        (Rule(ALL, "dense", gpu="NVIDIA A?*"), Rule(TRIANGLES, "stock", gpu="NVIDIA A*")),
        (Rule(ALL, "dense", gpu="NVIDIA*", tokens=(1, 9)), Rule(TRIANGLES, "stock", gpu="NVIDIA H200")),
        (Rule(ALL, "dense", tokens=(1, 9)), Rule(ALL, "dense", tokens=(11, 12)), Rule(ALL, "stock")),
        (Rule(ALL, "dense", tokens=(1, 9)), Rule(ALL, "stock", tokens=(9, 10))),
        (Rule(ALL, "dense", gpu="cpu"), Rule(ALL, "stock", tokens=(500, None))),
        # `none` is no way of attention with pair bias.
        (Rule(ALL, "none"), Rule(ALL, "stock", gpu="cpu")),
    ],
)
def test_a_rule_that_decides_somewhere_is_let_be(engine, rules):
    swap.check(engine.network, Plan("x", rules))


@pytest.mark.parametrize(
    "rules",
    [
        (Rule(ALL, "dense"), Rule(TRIANGLES, "stock", tokens=(1, 5))),
        (Rule(ALL, "dense"), Rule(TRIANGLES, "stock", gpu="NVIDIA H200")),
        (Rule(ALL, "dense", gpu="*"), Rule(TRIANGLES, "stock")),
        (Rule(ALL, "dense", gpu="NVIDIA*"), Rule(TRIANGLES, "stock", gpu="NVIDIA H200*", tokens=(7, None))),
        (Rule(ALL, "dense", gpu="NVIDIA*"), Rule(TRIANGLES, "stock", gpu="NVIDIA A10?")),
        (Rule(ALL, "dense", tokens=(1, 9)), Rule(TRIANGLES, "stock", tokens=(2, 9))),
        (
            Rule(ALL, "dense", tokens=(1, 9)),
            Rule(ALL, "dense", tokens=(10, None)),
            Rule(TRIANGLES, "stock"),
        ),
        (
            Rule(ALL, "dense", tokens=(1, 9)),
            Rule(ALL, "dense", gpu="a"),
            Rule(TRIANGLES, "stock", gpu="a", tokens=(5, 99)),
        ),
    ],
)
def test_a_rule_that_decides_nowhere_is_refused(engine, rules):
    with pytest.raises(UsageError, match=r"'\*\.tri_att_\*' decides for no layer of the model"):
        swap.check(engine.network, Plan("x", rules))


def test_an_error_while_layers_are_put_leaves_the_stock_ones(engine):
    before = dict(engine.network.named_modules())

    def network_of(name, rule):
        if name == "pairformer_stack.blocks.2.tri_att_end":
            raise MemoryError

    with pytest.raises(MemoryError):
        swap.apply(engine.network, Plan.for_bias("dense"), network_of)
    assert all(module is before[name] for name, module in engine.network.named_modules())


def test_blocks_are_replaced_where_their_ending_node_is(engine):
    plan = Plan("x", (Rule("pairformer_stack.blocks.[02].tri_att_end", "dense"), REST))
    handle = swap.apply(engine.network, plan)
    blocks = [name for name, layer in engine.network.named_modules() if isinstance(layer, PairformerBlock)]
    handle.restore()
    assert blocks == ["pairformer_stack.blocks.0", "pairformer_stack.blocks.2"]


def official_names():
    environment.prepare()
    from configs.configs_model_type import model_configs

    return sorted(model_configs)


@pytest.mark.parametrize("name", official_names())
def test_layers_of_every_official_model(name):
    """Each with one block of a kind: the channels and heads of all are the real ones."""
    from configs.configs_model_type import model_configs
    from protenix.model.modules.diffusion import DiffusionModule
    from protenix.model.modules.pairformer import PairformerStack, TemplateEmbedder

    config = build_config(Model(name, model_configs[name], checkpoint_path(name))).model
    n = 7
    config.diffusion_module.transformer.n_blocks = 1
    for part in ("atom_encoder", "atom_decoder"):
        config.diffusion_module[part].n_blocks = 1
    c_z, c_s = config.pairformer.c_z, config.pairformer.c_s
    with environment.swallow_stdout(), uninitialised():
        model = torch.nn.Module()
        model.pairformer_stack = PairformerStack(**{**config.pairformer, "n_blocks": 1})
        model.template_embedder = TemplateEmbedder(**{**config.template_embedder, "n_blocks": 1})
        model.diffusion_module = DiffusionModule(**config.diffusion_module)
        model.distogram_head = torch.nn.Identity()
        model.msa_module, model.N_cycle = torch.nn.Module(), 1
        model.msa_module.blocks = torch.nn.ModuleList()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        shape = parameter.shape
        parameter.data = torch.randn(shape, generator=generator) * (
            shape[-1] ** -0.5 if len(shape) > 1 else 1
        )

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    single, pair, tokens = normal(n, c_s), normal(n, n, c_z), normal(2, n, config.diffusion_module.c_token)
    template, noisy = normal(n, n, config.template_embedder.c), normal(2, n, c_s)

    def outputs():
        s, z = model.pairformer_stack(single.clone(), pair.clone(), None, inplace_safe=True)
        _, t = model.template_embedder.pairformer_stack(None, template.clone(), None, inplace_safe=True)
        return s, z, t, model.diffusion_module.diffusion_transformer(tokens, noisy, pair[None])

    with torch.no_grad():
        expected = outputs()
        handle = swap.apply(model, Plan.for_bias("flashbias"))
        found = outputs()
    kinds = Counter(type(module) for module in model.modules())
    assert (kinds[TriangleAttention], kinds[PairBiasAttention], kinds[PairformerBlock]) == (4, 2, 2)
    assert len(handle.report()) == 6
    assert all(relative(a, b) < 1e-4 for a, b in zip(found, expected, strict=True))

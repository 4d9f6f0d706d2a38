"""Networks that make factors: what they promise untrained, trained, and in a file."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flashbias_fold.errors import UsageError
from flashbias_fold.factorize import MeanNetwork, SketchNetwork, decompose
from flashbias_fold.factorize.store import FactorFile

CHANNELS, TOKENS, HEADS = 12, 5, 3
KINDS = pytest.mark.parametrize("kind", [SketchNetwork, MeanNetwork])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(length, seed=0, size=1.0):
    """A pair representation, a bias that it is projected to, and what is known of each place."""
    smooth = torch.einsum(
        "iac,jac->ijc", normal(length, 4, 12, seed=seed), normal(length, 4, 12, seed=seed + 1)
    )
    x = smooth + 0.2 * normal(length, length, CHANNELS, seed=seed + 2)
    bias = size * (x @ normal(CHANNELS, HEADS, seed=9)).movedim(-1, 0)
    return x, bias, normal(length, TOKENS, seed=seed + 3)


def network(kind, rank=8, seed=0):
    torch.manual_seed(seed)
    return kind(channels=CHANNELS, tokens=TOKENS, heads=HEADS, rank=rank)


def attended(bias):
    """What attention makes of values, when nothing but the bias tells keys apart."""
    return bias.double().softmax(-1) @ normal(HEADS, bias.shape[-1], 16, seed=5).double()


def error(factors, bias):
    exact = attended(bias)
    return float((attended(factors.bias()) - exact).norm() / exact.norm())


@pytest.mark.parametrize("rank", [4, 8, 16])
@pytest.mark.parametrize("length", [17, 48, 81])
def test_a_sketch_is_near_before_it_is_trained(rank, length):
    x, bias, tokens = problem(length)
    with torch.no_grad():
        found = network(SketchNetwork, 16)(x, bias, tokens, rank)
    assert error(found, bias) < 1.3 * error(decompose(bias, rank), bias) + 0.02


def test_a_sketch_learns_from_the_output():
    x, bias, tokens = problem(40, size=2.0)
    learning = network(SketchNetwork)
    optimiser = torch.optim.Adam(learning.parameters(), 2e-3)
    errors = []
    for _ in range(40):
        found = learning(x, bias, tokens, 4)
        loss = (attended(found.q @ found.k.mT) - attended(bias)).norm() / attended(bias).norm()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.8 * errors[0]
    assert all(parameter.grad is not None for parameter in learning.parameters())


def test_the_authors_networks_learn_the_bias_and_never_see_it():
    x, bias, tokens = problem(30)
    learning = network(MeanNetwork)
    assert torch.equal(learning(x, bias, tokens, 8).q, learning(x, bias * 7, tokens, 8).q)
    optimiser = torch.optim.Adam(learning.parameters(), 1e-3)
    errors = []
    for _ in range(60):
        found = learning(x, bias, tokens, 8)
        loss = (found.bias() - bias).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.6 * errors[0]


@KINDS
def test_a_smaller_rank_is_the_first_channels_of_a_larger(kind):
    x, bias, tokens = problem(20)
    made = network(kind, 8).requires_grad_(False)
    small, large = made(x, bias, tokens, 3), made(x, bias, tokens, 8)
    assert small.q.shape == (HEADS, 20, 3) and large.k.shape == (HEADS, 20, 8)
    if kind is MeanNetwork:
        assert torch.equal(small.q, large.q[..., :3])
    else:
        assert error(large, bias) < error(small, bias)


@KINDS
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_nothing_becomes_nan(kind, data):
    length = data.draw(st.sampled_from([2, 3, 17, 33]))
    size = data.draw(st.sampled_from([0.0, 1e-20, 1.0, 1e4]))
    rank = data.draw(st.sampled_from([1, 4, 8]))
    counted = data.draw(st.sampled_from([None, length, length // 2, 0]))
    x, bias, tokens = problem(length, data.draw(st.integers(0, 9)), size)
    if data.draw(st.booleans()):
        x, bias = torch.ones_like(x), torch.full_like(bias, size)
    mask = None if counted is None else torch.arange(length) < counted
    reach = data.draw(st.sampled_from([0, 2, 40]))
    found = network(kind)(x, bias, tokens, rank, mask, reach)
    assert torch.isfinite(found.q).all() and torch.isfinite(found.k).all()
    assert (found.band is not None) == bool(reach)
    assert found.band is None or torch.isfinite(found.band).all()


@KINDS
def test_what_stands_at_padding_does_not_matter(kind):
    x, bias, tokens = problem(40)
    real = torch.arange(40) < 29
    pairs = real[:, None] & real
    made = network(kind)
    wild = made(torch.where(pairs[..., None], x, 1e3), torch.where(pairs, bias, -1e3), tokens, 8, real)
    plain = made(x * pairs[..., None], bias * pairs, tokens, 8, real)
    torch.testing.assert_close(
        wild.bias()[:, real][..., real], plain.bias()[:, real][..., real], rtol=1e-3, atol=1e-3
    )


@KINDS
@pytest.mark.parametrize("reach", [1, 6, 39])
def test_pairs_within_reach_keep_their_bias(kind, reach):
    x, bias, tokens = problem(40)
    with torch.no_grad():
        rest = network(kind)(x, bias, tokens, 8, reach=reach).bias() - bias
    distance = torch.arange(40) - torch.arange(40)[:, None]
    near = rest.where(distance.abs() <= reach, torch.nan)
    spread = near - near.nanmedian(-1, keepdim=True).values  # each query has a constant of its own
    assert float(spread.nan_to_num().abs().max()) < 1e-4 * float(bias.abs().max())


def test_a_reach_brings_a_sketch_nearer():
    x, bias, tokens = problem(60)
    with torch.no_grad():
        errors = [
            error(network(SketchNetwork)(x, bias, tokens, 4, reach=reach), bias) for reach in (0, 5, 20)
        ]
    assert errors == sorted(errors, reverse=True)


@KINDS
def test_leading_dimensions_have_factors_of_their_own(kind):
    problems = [problem(19, seed) for seed in (0, 20)]
    x, bias = (torch.stack([one[index] for one in problems]) for index in (0, 1))
    tokens, made = problems[0][2], network(kind)
    together = made(x, bias, tokens, 8)
    for index in range(2):
        alone = made(x[index], bias[index], tokens, 8)
        rest = together.bias()[index] - alone.bias()
        assert rest.norm() < 1e-2 * alone.bias().norm()


@KINDS
def test_autocast_takes_no_digits(kind):
    x, bias, tokens = problem(20)
    made = network(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = made(x, bias, tokens, 8)
    assert torch.equal(inside.q, made(x, bias, tokens, 8).q)


# In a file


def a_file(kind=SketchNetwork, **changes):
    made = {name: network(kind, seed=seed) for seed, name in enumerate(("one.start", "two.end"))}
    size = {"channels": CHANNELS, "tokens": TOKENS, "heads": HEADS}
    given = {
        "model": "demo",
        "weights": "sha256 abc",
        "kind": kind.kind,
        "reach": 16,
        "rank": 8,
        "networks": made,
        "sizes": dict.fromkeys(made, size),
        "errors": {"one.start": {"neural": {"8": {"mean": 0.1, "largest": 0.2}}}},
    }
    return FactorFile(**{**given, **changes})


@KINDS
def test_a_file_gives_back_what_was_saved(kind, tmp_path):
    saved, path = a_file(kind), tmp_path / "f.safetensors"
    saved.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.safetensors"]
    found = FactorFile.load(path)
    assert (found.model, found.rank, found.reach, found.errors) == ("demo", saved.rank, 16, saved.errors)
    x, bias, tokens = problem(20)
    for name, made in saved.networks.items():
        assert torch.equal(found.networks[name](x, bias, tokens, 5).k, made(x, bias, tokens, 5).k)
        assert not any(parameter.requires_grad for parameter in found.networks[name].parameters())


def test_a_file_for_another_model_is_refused():
    a_file().check("demo", "sha256 abc")
    with pytest.raises(UsageError, match="trained for the model demo, not for protenix-v2"):
        a_file().check("protenix-v2", "sha256 abc")
    with pytest.raises(UsageError, match="trained for other weights of demo"):
        a_file().check("demo", "sha256 def")


def test_what_is_no_such_file_is_refused(tmp_path):
    path = tmp_path / "f.safetensors"
    with pytest.raises(UsageError, match="No such file"):
        FactorFile.load(path)
    for content in (b"", b"nonsense" * 20):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="no file of factor networks, or one that is damaged"):
            FactorFile.load(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(UsageError, match="which `flashbias-fold calibrate` makes"):
        FactorFile.load(path)


@pytest.mark.parametrize("harm", ["a tensor less", "another shape", "another kind", "no layers"])
def test_a_file_that_does_not_agree_with_itself_is_refused(harm, tmp_path):
    path = tmp_path / "f.safetensors"
    a_file().save(path)
    tensors, said = (
        load_file(path),
        {name: value for name, value in vars(a_file()).items() if name != "networks"},
    )
    if harm == "a tensor less":
        tensors.popitem()
    elif harm == "another shape":
        said["rank"] = 9
    elif harm == "another kind":
        said["kind"] = "wish"
    else:
        del said["sizes"]
    save_file(tensors, path, metadata={"format": "flashbias-fold factors 2", "about": json.dumps(said)})
    with pytest.raises(UsageError, match="damaged"):
        FactorFile.load(path)

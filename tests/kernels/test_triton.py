"""What only the Triton backend has: its guard, its launches, and that it copies nothing."""

import pytest
import torch
from lengths import at_length
from problems import DEVICE, assert_as_right_as_torch, normal, rms

from flashbias_kernels import biased_attention, choose_backend, launch, operands, reference_attention
from flashbias_kernels.problem import check
from flashbias_kernels.strides import mergeable


@pytest.mark.parametrize("reach", [0, 5, 16, 17, 200])
@pytest.mark.parametrize("lengths", [(64, 64), (70, 33), (15, 90), (128, 1)])
def test_every_tile_has_its_part_of_a_band(reach, lengths):
    """Whether it reaches beyond the first tile, over all of them, or over the ends of the keys."""
    queries, keys = lengths
    q, k, v = (normal(2, length, 16, seed=seed) for seed, length in enumerate((queries, keys, keys)))
    factors = {name: normal(2, n, 3, seed=n) for name, n in (("q_factor", queries), ("k_factor", keys))}
    band = 5 * normal(2, queries, 2 * reach + 1, seed=4)
    for mask in (None, torch.arange(keys, device=DEVICE) < (keys + 1) // 2):
        assert_as_right_as_torch(
            {"q": q, "k": k, "v": v, "band": band, "key_mask": mask, **factors}, "triton"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rise", at_length([300.0], [20.0, 300.0, -300.0]))
@pytest.mark.parametrize("kind", ["dense", "factors"])
def test_scores_that_run_away_from_the_first_tile_are_followed(dtype, rise, kind):
    """The loop without a maximum takes the first tile's; the later ones are `rise` higher for each tile."""
    heads, length = 2, 70
    q, k, v = (normal(heads, length, 32, dtype=dtype, seed=seed) for seed in range(3))
    slope = (torch.arange(length, device=DEVICE) // 16 * rise).to(dtype)
    if kind == "dense":
        options = {"bias": slope.expand(heads, length, length)}
    else:
        ones = torch.ones(heads, length, 1, device=DEVICE, dtype=dtype)
        options = {"q_factor": ones, "k_factor": slope[:, None].expand(heads, length, 1)}
    assert_as_right_as_torch({"q": q, "k": k, "v": v, **options}, "triton")


def test_a_first_tile_without_a_key_is_no_level():
    """Rows whose first keys are all masked, and whose scores are far from zero either way."""
    q, k, v = (normal(2, 50, 16, seed=seed) for seed in range(3))
    mask = torch.arange(50, device=DEVICE) >= 33
    for level in (-500.0, 500.0):
        assert_as_right_as_torch(
            {"q": q, "k": k, "v": v, "key_mask": mask, "bias": torch.full((2, 50, 50), level, device=DEVICE)},
            "triton",
        )


def test_values_may_be_huge():
    q, k = (normal(2, 40, 16, seed=seed) for seed in range(2))
    v = 1e30 * normal(2, 40, 16, seed=2)
    assert_as_right_as_torch({"q": q, "k": k, "v": v}, "triton")


def test_channels_apart_are_brought_together_and_what_is_broadcast_stays_so():
    """Heads whose channels are side by side are read as they are, whatever their other strides."""
    q = normal(2, 7, 3, 8).transpose(-2, -3)
    v = normal(3, 8, 7, seed=1).transpose(-1, -2).expand(2, 3, 7, 8)
    factor = normal(7, seed=2)[:, None].expand(2, 1, 7, 4)
    given = operands.readable(check(q, q, v, q_factor=factor, k_factor=factor))
    assert given.q is q
    assert given.k is q
    assert given.v.stride() == (0, 56, 8, 1)
    assert given.q_factor.stride()[::2] == (0, 4)
    torch.testing.assert_close(given.v, v, rtol=0, atol=0)
    torch.testing.assert_close(given.k_factor, factor, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1e-20, 1.0, 3e3, 1e15])
def test_float32_factors_in_parts_keep_their_digits(size):
    """Beside queries in 16 bits they have six channels of bf16 each, and each head its live ones."""
    heads = normal(2, 2, 50, 8, dtype=torch.bfloat16)
    factors = [(size * normal(1, 50, 7, seed=seed)).expand(2, 1, 50, 7) for seed in (1, 2)]
    ranks = torch.tensor([3, 7], dtype=torch.int32, device=DEVICE)
    problem = check(heads, heads, heads, q_factor=factors[0], k_factor=factors[1], ranks=ranks)
    given = operands.readable(problem)
    assert given.q_factor.dtype == given.k_factor.dtype == torch.bfloat16
    assert given.q_factor.stride(0) == given.k_factor.stride(0) == 0
    assert given.ranks is None
    found = given.q_factor.double() @ given.k_factor.double().transpose(-1, -2)
    left, right = (problem.only_live(factor.double()) for factor in factors)
    bound = left.abs() @ right.abs().transpose(-1, -2)
    assert ((found - left @ right.transpose(-1, -2)).abs() <= 2**-23 * bound).all()


@pytest.mark.parametrize("where", ["query", "key", "value", "factor", "bias", "band"])
def test_nan_is_passed_on(where):
    """To the rows that see it: a zero would hide that something went wrong before."""
    q, k, v = (normal(2, 40, 16, seed=seed) for seed in range(3))
    qf, kf, bias = normal(2, 40, 16, seed=3), normal(2, 40, 16, seed=4), normal(2, 40, 40, seed=5)
    band = normal(2, 40, 7, seed=6)
    spoilt = {"query": q, "key": k, "value": v, "factor": kf, "bias": bias, "band": band}[where]
    spoilt[1, 7, 3] = float("nan")
    factors = {"q_factor": qf, "k_factor": kf}
    backends = ("triton", "reference")
    found, right = (
        biased_attention(q, k, v, bias=bias, band=band, **factors, backend=name) for name in backends
    )
    assert right.isnan().any() and not right.isnan().all()
    assert torch.equal(found.isnan(), right.isnan())


def test_the_output_lies_as_the_queries_do():
    """Heads inside, as projections leave them, or outside: what follows needs no copy."""
    k, v = (normal(2, 3, 9, 8, seed=seed) for seed in (1, 2))
    outside = normal(2, 3, 7, 8)
    inside = outside.transpose(-2, -3).contiguous().transpose(-2, -3)
    found = [biased_attention(q, k, v, backend="triton") for q in (outside, inside)]
    assert found[0].is_contiguous()
    assert found[1].transpose(-2, -3).is_contiguous()
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_what_is_broadcast_is_not_copied():
    """All that the kernels are given are views of what the caller gave."""
    q, k, v = (normal(2, 5, 3, 7, 8, seed=seed) for seed in range(3))
    factors = normal(2, 1, 3, 7, 4), normal(1, 1, 3, 7, 4)
    bias, mask, gate = normal(3, 7, 1), normal(5, 7) > 0, normal(2, 1, 3, 7, 8)
    band = normal(2, 1, 1, 7, 5)
    problem = check(
        q, k, v, q_factor=factors[0], k_factor=factors[1], bias=bias, band=band, key_mask=mask, gate=gate
    )
    others = {"out": torch.empty(2, 5, 3, 7, 8), "lse": torch.empty(2, 5, 3, 7)}
    others |= {"closed": torch.empty(5, 7), "span": torch.empty(5, 2, dtype=torch.int32)}
    (views,) = launch._two_leading_dimensions(problem, others)
    assert (views.y, views.z, views.heads) == (2, 5, 3)
    given = {"q": q, "k": k, "v": v, "q_factor": factors[0], "k_factor": factors[1]}
    given |= {"bias": bias, "band": band, "gate": gate, **others}
    assert views.named.keys() == given.keys()
    for name, view in views.named.items():
        assert view.tensor.data_ptr() == given[name].data_ptr()
    assert views.named["bias"].strides == (0, 0, 7, 1, 0)
    assert views.named["band"].strides == (35, 0, 0, 5, 1)
    assert views.named["k_factor"].strides == (0, 0, 28, 4, 1)
    assert views.named["closed"].strides == (0, 7, 1)


@pytest.mark.parametrize(
    ("sizes", "strides", "groups"),
    [
        ((), [()], []),
        ((1, 1), [(5, 5)], []),
        ((6,), [(8,)], [[0]]),
        ((2, 3, 4), [(12, 4, 1)], [[0, 1, 2]]),
        ((2, 3, 4), [(12, 4, 1), (0, 0, 0)], [[0, 1, 2]]),
        ((2, 3, 4), [(12, 4, 1), (4, 0, 1)], [[0], [1], [2]]),
        ((2, 1, 4), [(4, 99, 1), (0, 7, 0)], [[0, 2]]),
        ((2, 3, 4), [(12, 4, 1), (0, 4, 1)], [[0], [1, 2]]),
    ],
)
def test_dimensions_are_merged_where_every_tensor_steps_evenly(sizes, strides, groups):
    assert mergeable(sizes, strides) == groups


@pytest.mark.parametrize(
    ("rank", "parts"),
    [
        (0, []),
        (1, [16]),
        (16, [16]),
        (24, [32]),
        (33, [32, 16]),
        (96, [64, 32]),
        (113, [128]),
        (240, [128, 64, 32, 16]),
    ],
)
def test_a_rank_costs_the_next_multiple_of_16(rank, parts):
    assert [part for part in launch.parts_of(rank) if part] == parts


def test_many_leading_dimensions_run_one_after_another():
    q, k, v = (normal(2, 2, 2, 2, 9, 8, seed=seed) for seed in range(3))
    bias = normal(2, 1, 2, 2, 9, 9)  # shared by the second dimension: no two of the three can be merged
    assert_as_right_as_torch({"q": q, "k": k, "v": v, "bias": bias}, "triton")


def test_ranks_are_read_where_they_lie():
    """A rank may grow from call to call; the kernel stops at what it finds."""
    q, k, v = (normal(3, 20, 16, seed=seed) for seed in range(3))
    q_factor, k_factor = normal(3, 20, 40, seed=3), normal(3, 20, 40, seed=4)
    ranks = torch.tensor([0, 17, 99], dtype=torch.int32, device=DEVICE)  # more than there are is all
    out = biased_attention(q, k, v, q_factor=q_factor, k_factor=k_factor, ranks=ranks, backend="triton")
    for head, rank in enumerate((0, 17, 40)):
        expected = reference_attention(
            *(x[head : head + 1] for x in (q, k, v)),
            q_factor=q_factor[head : head + 1, :, :rank],
            k_factor=k_factor[head : head + 1, :, :rank],
        )
        assert rms(out[head].double() - expected[0]) < 1e-5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dtype": torch.float64}, "float64 is none of"),
        ({"dim": 136}, "head dimensions 136 and 136 go beyond 128"),
        ({"rank": 241}, "rank 241 goes beyond 240"),
        ({"dim": 64, "rank": 97}, "64 channels of heads and 97 of factors in float32 go beyond 160"),
        (
            {"dtype": torch.float16, "rank": 41, "factors": torch.float32},
            "rank 41 of factors in float32 beside torch.float16 heads goes beyond 40",
        ),
    ],
)
def test_what_the_kernel_cannot_do_it_says(change, why):
    kind = {"dtype": torch.float32, "dim": 8, "rank": 1, **change}
    q = torch.zeros(1, 4, kind["dim"], dtype=kind["dtype"], device=DEVICE)
    factor = torch.zeros(1, 4, kind["rank"], dtype=kind.get("factors", kind["dtype"]), device=DEVICE)
    options = {"q_factor": factor, "k_factor": factor}
    with pytest.raises(ValueError, match=f"backend triton cannot do this: .*{why}"):
        biased_attention(q, q, q, backend="triton", **options)
    assert torch.isfinite(biased_attention(q, q, q, **options)).all()
    assert choose_backend(q, q, q, **options).backend == "sdpa"


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    q = torch.zeros(1, 4, 8)
    with pytest.raises(ValueError, match="on cpu, which has no compiler"):
        biased_attention(q, q, q, backend="triton")

"""The comparison with float64: what is right passes in every dtype, what is wrong does not."""

import math

import pytest
import torch

from flashbias_fold.bench.kernels import correctness
from flashbias_fold.bench.kernels.methods import contenders
from flashbias_fold.bench.kernels.options import KernelOptions
from flashbias_fold.bench.kernels.problem import make_problem
from flashbias_fold.bench.kernels.run import DTYPES

CPU = torch.device("cpu")
OPTIONS = KernelOptions(heads=2, dim=8, ranks=(4, 7))


def problem(tokens=12, dtype=torch.float32, **changes):
    options = KernelOptions(**(vars(OPTIONS) | changes))
    return make_problem(tokens, options, CPU, dtype).with_gradients()


def plain(problem, bias):
    scores = problem.q @ problem.k.transpose(-1, -2) * problem.q.shape[-1] ** -0.5 + bias
    if problem.key_mask is not None:
        scores = scores.masked_fill(~problem.key_mask[:, None, None, :], float("-inf"))
    return torch.softmax(scores, -1) @ problem.v


def found(problem, out, **shared):
    leaves = problem.rows() | shared
    gradients = torch.autograd.grad(out, list(leaves.values()), problem.gradient, retain_graph=True)
    return {"out": out, **dict(zip(leaves, gradients, strict=True))}


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_the_computation_as_torch_has_it_is_right(dtype, padding):
    given = problem(dtype=dtype, padding=padding)
    expected = correctness.expect(given, {"bias": given.bias}, gradients=True)
    errors = correctness.errors(found(given, plain(given, given.bias), bias=given.bias), expected)
    assert errors.keys() == {"out", "q", "k", "v", "bias"}
    assert 0 < max(errors.values()) <= correctness.bar(dtype, CPU)


@pytest.mark.parametrize("layout", ["projected", "contiguous"])
def test_the_bias_of_every_rank_is_the_same(layout):
    given = problem(layout=layout)
    for rank in OPTIONS.ranks:
        q_factor, k_factor = given.factors[rank]
        assert q_factor.shape[-1] == rank
        assert q_factor.requires_grad and given.bias.requires_grad
        torch.testing.assert_close(q_factor @ k_factor.transpose(-1, -2), given.bias)
    assert given.q.is_contiguous() == (layout == "contiguous")
    assert given.q.shape == (12, 2, 12, 8)


def test_small_things_that_are_wrong_are_found():
    given = problem()
    expected = correctness.expect(given, {"bias": given.bias}, gradients=True)
    right = found(given, plain(given, given.bias), bias=given.bias)
    limit = correctness.bar(torch.float32, CPU)

    def worst(**changes):
        return max(correctness.errors(right | changes, expected).values())

    assert worst() <= limit
    assert worst(out=right["out"] * (1 + 1e-5)) > limit
    late = right["out"].detach().clone()
    late[-1, -1, -1] = 0
    assert worst(out=late) > limit, "the last query of the last row"
    assert worst(bias=right["bias"] / 2) > limit
    assert worst(k=-right["k"]) == pytest.approx(2)
    assert worst(v=torch.full_like(right["v"], math.nan)) == math.inf


@pytest.mark.parametrize("padding", [0, 5])
def test_some_rows_are_the_same_as_these_rows_of_all(monkeypatch, padding):
    given = problem(padding=padding)
    whole = correctness.expect(given, {"bias": given.bias}, gradients=True)
    monkeypatch.setitem(correctness._EVERY_ROW, "cpu", 100)
    monkeypatch.setattr(correctness, "_SCORES_AT_ONCE", 600)
    some = correctness.expect(given, {"bias": given.bias}, gradients=True)
    assert some.rows.tolist() == [0, 4, 7, 11]
    assert some.tensors.keys() == {"out", "q", "k", "v"}, "the bias's gradient needs every row"
    for name, tensor in some.tensors.items():
        torch.testing.assert_close(tensor, whole.tensors[name][some.rows])
    errors = correctness.errors(found(given, plain(given, given.bias), bias=given.bias), some)
    assert errors.keys() == some.tensors.keys()
    assert max(errors.values()) <= correctness.bar(torch.float32, CPU)


def test_rows_taken_in_parts_add_up(monkeypatch):
    given = problem()
    whole = correctness.expect(given, {"bias": given.bias}, gradients=True)
    monkeypatch.setattr(correctness, "_SCORES_AT_ONCE", 600)
    parts = correctness.expect(given, {"bias": given.bias}, gradients=True)
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], tensor)


def test_each_rank_contends_by_itself():
    labels = [contender.label for contender in contenders(("dense", "flashbias"), (16, 32))]
    assert labels == ["flashbias R=16", "flashbias R=32", "dense"]

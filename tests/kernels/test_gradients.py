"""Gradients of the Triton backend, and how it looks to torch: as an operator, compiled, under autograd."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from lengths import at_length
from problems import DEVICE, gradients_as_right_as_torch, normal, problems, rms
from torch.library import opcheck

from flashbias_kernels import biased_attention, operators, reference_attention
from flashbias_kernels.problem import check

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def learnt(*shape, seed):
    return normal(*shape, seed=seed).requires_grad_()


def everything():
    """Two rows that share factors and bias; all can learn."""
    sizes = {"q": (2, 3, 18, 8), "k": (2, 3, 21, 8), "v": (2, 3, 21, 16), "gate": (2, 3, 18, 16)}
    sizes |= {"q_factor": (3, 18, 5), "k_factor": (1, 21, 5), "bias": (3, 18, 21), "band": (1, 18, 9)}
    return {name: learnt(*size, seed=seed) for seed, (name, size) in enumerate(sizes.items())}


def fixed():
    return {
        "key_mask": torch.arange(21, device=DEVICE) != 4,
        "ranks": torch.tensor([5, 0, 3], dtype=torch.int32, device=DEVICE),
    }


# Shrinking a failure would take an emulated kernel an hour.
@settings(
    max_examples=at_length(7, 20),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.generate),
)
@given(problems(FLOATS, longest=24, steepest=30.0))
def test_agree_with_the_definition(arguments):
    arguments = {n: a.to(DEVICE) if isinstance(a, torch.Tensor) else a for n, a in arguments.items()}
    gradients_as_right_as_torch(arguments, "triton")


@pytest.mark.parametrize("shared", at_length([(1, 3)], [(1, 1), (1, 3), (2, 1), (2, 3)]))
@pytest.mark.parametrize("rank", at_length([3], [0, 3, 37]))
def test_of_what_rows_share_are_sums_over_them(shared, rank):
    """Over either of two leading dimensions, or both, in either of the ways that factors take."""
    arguments = {name: normal(2, 3, 2, 19, 8, seed=seed) for seed, name in enumerate("qkv")}
    arguments["bias"] = normal(*shared, 2, 19, 19, seed=3)
    if rank:
        arguments |= {name: normal(*shared, 2, 19, rank, seed=4) for name in ("q_factor", "k_factor")}
    gradients_as_right_as_torch(arguments, "triton")


def test_of_a_query_without_a_key_are_zero():
    q, k, v = (learnt(2, 2, 18, 8, seed=seed) for seed in range(3))
    bias = learnt(2, 18, 18, seed=3)
    mask = torch.ones(2, 18, dtype=torch.bool, device=DEVICE)
    mask[1] = False
    out = biased_attention(q, k, v, bias=bias, key_mask=mask, backend="triton")
    found = torch.autograd.grad(out.sum(), (q, k, v, bias))
    assert all(torch.isfinite(gradient).all() for gradient in found)
    assert all((gradient[1] == 0).all() for gradient in found[:3])


def test_of_the_sums():
    q, k, v = (learnt(3, 18, 8, seed=seed) for seed in range(3))
    weight = normal(3, 18, seed=4)
    _, lse = biased_attention(q, k, v, backend="triton", return_lse=True)
    found = torch.autograd.grad(lse, (q, k), weight)
    double = [x.detach().double().requires_grad_() for x in (q, k, v)]
    _, lse = reference_attention(*double, return_lse=True)
    for gradient, expected in zip(found, torch.autograd.grad(lse, double[:2], weight.double()), strict=True):
        assert rms(gradient - expected) < 1e-6 * rms(expected)


def test_are_the_same_each_time():
    """Bit for bit: no sum depends on which program comes first."""
    arguments, options = everything(), fixed()
    runs = []
    for _ in range(2):
        out = biased_attention(**arguments, **options, backend="triton")
        runs.append(torch.autograd.grad(out.square().sum(), list(arguments.values())))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("wanted", at_length(["v", "bias"], ["q", "v", "bias", "band", "k_factor", "gate"]))
def test_of_one_alone(wanted):
    arguments = everything()
    out = biased_attention(**arguments, **fixed(), backend="triton")
    everywhere = dict(zip(arguments, torch.autograd.grad(out.sum(), list(arguments.values())), strict=True))
    alone = {name: tensor.detach() for name, tensor in arguments.items()}
    alone[wanted].requires_grad_()
    out = biased_attention(**alone, **fixed(), backend="triton")
    (gradient,) = torch.autograd.grad(out.sum(), [alone[wanted]])
    assert torch.equal(gradient, everywhere[wanted])


def test_without_gradients_the_gate_is_applied_in_the_kernel(monkeypatch):
    arguments, options = everything(), fixed()
    with_gradients = biased_attention(**arguments, **options, backend="triton")
    gates = []
    real = operators.triton_backend.attend
    monkeypatch.setattr(
        operators.triton_backend, "attend", lambda problem: gates.append(problem.gate) or real(problem)
    )
    with torch.no_grad():
        without = biased_attention(**arguments, **options, backend="triton")
    assert len(gates) == 1 and gates[0] is not None
    torch.testing.assert_close(with_gradients, without)


def test_there_is_no_second_derivative():
    q, k, v = (learnt(1, 17, 8, seed=seed) for seed in range(3))
    out = biased_attention(q, k, v, backend="triton")
    (gradient,) = torch.autograd.grad(out.square().sum(), [q], create_graph=True)
    with pytest.raises(RuntimeError, match="attention_backward"):
        gradient.sum().backward()


# As an operator of torch


@pytest.mark.parametrize(
    "kind", at_length(["heads inside", "little"], ["everything", "heads inside", "little"])
)
def test_the_operator_is_what_torch_expects(kind):
    if kind == "everything":
        problem = check(**{**everything(), "gate": None}, **fixed())
    elif kind == "heads inside":
        problem = check(*(learnt(2, 17, 3, 8, seed=seed).transpose(-2, -3) for seed in range(3)))
    else:
        problem = check(*(learnt(2, 17, 8, seed=seed) for seed in range(3)), causal=True)
    arguments = tuple(getattr(problem, name) for name in operators._ARGUMENTS)
    assert set(opcheck(operators.attention, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["triton", "sdpa"])
def test_compiled_it_is_one_graph_and_gives_the_same(backend):
    arguments, options = everything(), fixed()

    def attend(given):
        return biased_attention(**given, **options, backend=backend)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for each in (arguments, {name: t.detach() for name, t in arguments.items()}):
        torch.testing.assert_close(compiled(each), attend(each))
    found, expected = (
        torch.autograd.grad(function(arguments).square().sum(), list(arguments.values()))
        for function in (compiled, attend)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)

"""Problems of every kind to try a backend on, and how right its answer has to be."""

import torch
from hypothesis import strategies as st

# The kernels too, now: other tests hide for a while that Triton is to interpret them.
from flashbias_kernels import backward, biased_attention, forward, reference_attention  # noqa: F401
from flashbias_kernels.band import spread

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

RANKS = (0, 1, 2, 5, 16, 24, 32, 33, 96)
# Where torch is as good as this, it was lucky. In 16 bits the output is rounded once, in 32 the steps count.
ROUNDING = {torch.float32: 2**-22, torch.bfloat16: 2**-8, torch.float16: 2**-11}
LEADING = ((), (1,), (3,), (2, 3), (2, 1, 2), (2, 2, 2))


@st.composite
def problems(draw, dtypes, longest, steepest=1e4):
    """Arguments of `biased_attention`: odd sizes, strides and broadcasts, all options, extreme values."""
    some = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    dtype = some(*dtypes)
    leading = some(*LEADING)
    heads, queries, keys = (draw(st.integers(1, most)) for most in (3, longest, longest))
    dim, value_dim = some((8, 8), (16, 16), (24, 24), (32, 32), (48, 48), (32, 40), (64, 8))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def shared():
        return tuple(1 if draw(st.booleans()) else size for size in leading)

    arguments = {
        "q": normal(*leading, queries, heads, dim).transpose(-2, -3),
        "k": normal(*leading, heads, keys, dim),
        "v": normal(*leading, heads, value_dim, keys).transpose(-1, -2),
    }
    rank = some(*RANKS)
    if rank:
        precision = some(dtype, torch.float32) if rank <= 32 else dtype  # more in float32 is not for Triton
        arguments["q_factor"] = normal(*shared(), some(1, heads), queries, rank).to(precision)
        arguments["k_factor"] = normal(*shared(), some(1, heads), keys, rank).to(precision)
        if draw(st.booleans()):
            arguments["ranks"] = torch.randint(0, rank + 1, (heads,), generator=generator, dtype=torch.int32)
    kind = some("none", "none", "dense", "forbidding", "constant along queries")
    if kind != "none":
        bias = normal(*shared(), heads, queries, keys).float() * some(0.0, 1.0, 30.0, steepest)
        bias = bias.clamp(-6e4, 6e4).to(some(dtype, torch.float32))
        if kind == "forbidding":
            bias[torch.rand(bias.shape, generator=generator) < 0.3] = float("-inf")
        arguments["bias"] = bias[..., :1, :] if kind == "constant along queries" else bias
    reach = some(-1, -1, 0, 1, 7, 20)
    if reach >= 0:
        size = some(1.0, 30.0)
        band = size * normal(*shared(), some(1, heads), queries, 2 * reach + 1).float()
        arguments["band"] = band.to(some(dtype, torch.float32))
    kind = some("none", "none", "random", "padding", "everything")
    if kind != "none":
        random = torch.rand(*leading, keys, generator=generator) > 0.5
        padding = (torch.arange(keys) < (keys + 1) // 2).expand_as(random)
        arguments["key_mask"] = {"random": random, "padding": padding}.get(kind, torch.zeros_like(random))
    if draw(st.booleans()):
        arguments["gate"] = normal(*leading, heads, queries, value_dim)
    if draw(st.booleans()):
        arguments["causal"] = True
    return arguments


def same_dtype_attention(
    q,
    k,
    v,
    *,
    q_factor=None,
    k_factor=None,
    bias=None,
    band=None,
    key_mask=None,
    gate=None,
    causal=False,
    ranks=None,
):
    """The computation as one writes it in torch, every step in the dtype of the inputs."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if q_factor is not None:
        if ranks is not None:
            live = torch.arange(q_factor.shape[-1], device=q.device) < ranks[:, None]
            q_factor = q_factor.where(live[:, None, :], 0.0)
        scores = scores + (q_factor @ k_factor.transpose(-1, -2)).to(scores.dtype)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if band is not None:
        scores = scores + spread(band, scores.shape[-1]).to(scores.dtype)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[..., None, None, :], float("-inf"))
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    out = torch.softmax(scores, -1).nan_to_num(0.0) @ v
    return out if gate is None else out * torch.sigmoid(gate)


def gradients_as_right_as_torch(arguments, backend):
    """As below, of the gradients of all that is continuous."""
    learnt = ("q", "k", "v", "q_factor", "k_factor", "bias", "band", "gate")
    names = [name for name in learnt if name in arguments]
    fixed = {name: value for name, value in arguments.items() if name not in names}
    q = arguments["q"]

    def gradients(attend, dtype):
        given = [
            arguments[name].to(dtype or arguments[name].dtype).detach().requires_grad_() for name in names
        ]
        out = attend(**dict(zip(names, given, strict=True)), **fixed)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weight = weight.to(q.dtype).to(out.device, out.dtype)
        return torch.autograd.grad(out, given, weight)

    ours = gradients(lambda **a: biased_attention(**a, backend=backend), None)
    theirs = gradients(same_dtype_attention, None)
    exact = gradients(reference_attention, torch.float64)
    # Weights are computed anew from the logarithm of their sum, which is a float32.
    _, lse = reference_attention(**arguments, return_lse=True)
    rounding = 4 * ROUNDING[q.dtype] + 2**-24 * float(lse.where(lse.isfinite(), 0.0).abs().max())
    for name, our, their, right in zip(names, ours, theirs, exact, strict=True):
        assert (our.dtype, our.shape) == (arguments[name].dtype, arguments[name].shape), name
        assert torch.isfinite(our).all(), name
        # What is small because large terms cancel has their errors: with one key, queries have no gradient.
        least = rounding * max(rms(right), 0.5 * max(map(rms, exact)))
        # What softmax takes off comes from the output as it was rounded; torch has it from the weights.
        factor = 3 if our.numel() > 300 else 5
        error, their_error = rms(our.double() - right), rms(their.double().nan_to_num() - right)
        assert error <= factor * max(their_error, least), (
            f"{name}: error {error:.2e}, torch's {their_error:.2e}, {_described(arguments)}"
        )


def normal(*shape, dtype=torch.float32, seed=0):
    """Normally distributed numbers on the device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def rms(tensor):
    """Root mean square."""
    return float(tensor.double().square().mean().sqrt())


def _described(arguments):
    return {n: (tuple(a.shape), a.dtype) if isinstance(a, torch.Tensor) else a for n, a in arguments.items()}


def assert_as_right_as_torch(arguments, backend):
    """The error to float64 is at most 1.5 times that of torch in the same dtype, or a rounding."""
    options = {name: value for name, value in arguments.items() if name not in "qkv"}
    q, k, v = (arguments[name] for name in "qkv")
    expected, expected_lse = reference_attention(q, k, v, return_lse=True, **options)
    out, lse = biased_attention(q, k, v, backend=backend, return_lse=True, **options)
    assert (out.dtype, out.shape) == (q.dtype, expected.shape)
    assert torch.isfinite(out).all()
    theirs = rms(same_dtype_attention(q, k, v, **options).double() - expected)
    ours = rms(out.double() - expected)
    least = ROUNDING[q.dtype] * rms(expected)
    factor = 1.5 if lse.numel() > 300 else 5  # errors of a row go together: a handful makes no statistics
    assert ours <= factor * max(theirs, least), (
        f"error {ours:.2e}, torch's {theirs:.2e}, {_described(arguments)}"
    )
    empty = expected_lse == float("-inf")
    assert torch.equal(lse == float("-inf"), empty)
    # A score is rounded where its channels are; the sum is of scores near the largest.
    close = 1e-4 if q.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        lse.double()[~empty], expected_lse[~empty], rtol=close, atol=close, check_dtype=False
    )

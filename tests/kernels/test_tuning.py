"""Every row of the tables of block sizes, compiled: right on this GPU, whatever the strides."""

import itertools

import pytest
import torch
from problems import DEVICE

from flashbias_kernels import biased_attention, launch, reference_attention, tuning
from flashbias_kernels.problem import check
from flashbias_kernels.triton_backend import MOST_CHANNELS, why_not

DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}
# Of outputs and gradients, relative to their size: some roundings of the operands, or of sums in float32.
BARS = {"half": 2**-6, "tf32": 2**-8, "fp32": 2**-18}
ROWS = [(kernel, row) for kernel, table in tuning.TABLES.items() for row in table]


@pytest.fixture
def allow_tf32():
    """Sets what torch may do, until the test ends."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32

    def allow(allowed):
        matmul.allow_tf32 = allowed

    yield allow
    matmul.allow_tf32 = before


def _name(value):
    return (
        value
        if isinstance(value, str)
        else "-".join(map(str, (value.arithmetic, *value.blocks, value.since)))
    )


def _problem(row, keys_apart):
    """As large as the row takes, more than a tile; values with keys apart or side by side, as callers may."""
    dtype = DTYPES[row.arithmetic]
    dim, rank = min(row.dim, 128), min(row.channels, 240)
    if dtype == torch.float32:
        rank = min(rank, MOST_CHANNELS - dim)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator)).to(DEVICE, dtype)

    arguments = {
        "q": normal(2, 75, 2, dim).transpose(-2, -3),
        "k": normal(2, 2, 141, dim),
        "v": normal(2, 2, 141, dim) if keys_apart else normal(2, 2, dim, 141).transpose(-1, -2),
        "q_factor": normal(2, 1, 75, rank, scale=rank**-0.25),
        "k_factor": normal(2, 1, 141, rank, scale=rank**-0.25),
        "key_mask": torch.arange(141, device=DEVICE) < 133,
    }
    if row.dense:
        arguments["bias"] = normal(2, 75, 141)
    return arguments


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", [64, 63])  # an odd one has a bias that cannot be loaded in pieces
@pytest.mark.parametrize("tf32", [True, False])
def test_all_that_is_taken_has_a_row(dtype, length, tf32, monkeypatch, allow_tf32):
    allow_tf32(tf32)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # then no GPU has to be there
    sizes = itertools.product((8, 48, 128), (0, 5, 33, 97, 240), {dtype, torch.float32}, (True, False))
    for dim, rank, wide, has_bias in sizes:
        heads = torch.empty(2, length, dim, dtype=dtype)
        factor = torch.empty(1, length, rank, dtype=wide) if rank else None
        bias = torch.empty(2, length, length, dtype=dtype) if has_bias else None
        problem = check(heads, heads, heads, q_factor=factor, k_factor=factor, bias=bias)
        if why_not(problem) is None:
            for table, arch in itertools.product(tuning.TABLES.values(), (80, 90, 100)):
                assert tuning.row(table, problem, arch) in table


@pytest.mark.skipif(DEVICE != "cuda", reason="block sizes are of compiled kernels: needs an NVIDIA GPU")
@pytest.mark.parametrize("keys_apart", [True, False])
@pytest.mark.parametrize(("kernel", "row"), ROWS, ids=_name)
def test_a_row_is_right(kernel, row, keys_apart, monkeypatch, allow_tf32):
    major, minor = torch.cuda.get_device_capability()
    if 10 * major + minor < row.since:
        pytest.skip(f"a row for sm_{row.since}")
    usual = launch.blocks_of

    def sizes(name, problem, arch):
        if name != kernel:
            return usual(name, problem, arch)
        queries, keys = row.blocks[:2]
        return row.blocks._replace(queries=keys, keys=queries) if name == "keys" else row.blocks

    monkeypatch.setattr(launch, "blocks_of", sizes)
    allow_tf32(row.arithmetic == "tf32")
    arguments = _problem(row, keys_apart)
    ours, exact = (
        _results(biased_attention, arguments),
        _results(reference_attention, arguments, torch.float64),
    )
    for name, right in exact.items():
        error = float((ours[name].double() - right).norm() / right.norm())
        assert error < BARS[row.arithmetic], (name, error)


def _results(attend, arguments, dtype=None):
    """The output, and gradients of all that has one."""
    given = {
        name: value.to(dtype or value.dtype).detach().requires_grad_() if value.is_floating_point() else value
        for name, value in arguments.items()
    }
    options = {"backend": "triton"} if attend is biased_attention else {}
    out = attend(**given, **options)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.device, out.dtype)
    learnt = {name: value for name, value in given.items() if value.requires_grad}
    return {
        "out": out.detach(),
        **dict(zip(learnt, torch.autograd.grad(out, learnt.values(), weight), strict=True)),
    }

"""Time the layers of a Pairformer block that update pairs, each way that they can be computed.

    python scripts/pair_layers.py [--tokens 256,512,1024] [--channels 128,256] [--repeats 20]
                                  [--device cuda|cpu] [--json FILE]

One block of Protenix with random weights, in bf16 as autocast has it. Of each layer, at each size: stock
with the kernels that Protenix takes there, stock's triangle multiplication with weights in bf16 (which lets
cuEquivariance take its newer kernels), ours around the fused attention by torch and by kernels. All add to
the pairs, as the block does. Every way is first compared with stock in float32; then all are timed in turn.
Sizes are recorded as they end.

exit status: 0 all ways agree with stock, 1 some do not, 2 wrong arguments
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flashbias_fold.bench import machine
from flashbias_fold.bench.timing import Step, interleave, peak_bytes, spread
from flashbias_fold.files import write_json
from flashbias_fold.pairformer import Rule, Transition, TriangleAttention, TriangleMultiplication
from flashbias_fold.pairformer import multiplication as multiplication_module
from flashbias_fold.pairformer import transition as transition_module
from flashbias_fold.pairformer import triangle as triangle_module
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.cast_weights import CastWeights
from flashbias_fold.protenix_adapter.kernels import stock_kernels
from flashbias_fold.protenix_adapter.norms import OwnNorms

# Of an update, by norm, relative to float32: 8 bits of digits in a handful of operations.
LARGEST_ERROR = 0.03
Update = Callable[[Tensor], Tensor]


def main() -> int:
    """Measure, print and record."""
    options = read_options()
    environment.prepare()
    device = torch.device(options.device)
    record: dict[str, Any] = {"machine": machine.describe(device), "versions": machine.versions(), "rows": []}
    for channels in options.channels:
        for tokens in options.tokens:
            record["rows"] += measure(channels, tokens, options.repeats, device)
            if options.json:
                write_json(options.json, record)
    return 0 if all(row["right"] for row in record["rows"]) else 1


def read_options() -> argparse.Namespace:
    """Of the command line."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=lines[0])
    numbers: Callable[[str], list[int]] = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--tokens", type=numbers, default=[256, 512, 1024])
    parser.add_argument("--channels", type=numbers, default=[128, 256])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(channels: int, tokens: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Compare and time every layer and way at one size."""
    block = make_block(channels).to(device)
    z = torch.randn(tokens, tokens, channels, device=device)
    rows = []
    with torch.no_grad():
        for layer, ways in all_ways(block, device).items():
            right = exact_update(block, layer, z)
            found = [compared(layer, name, way, z, right, device) for name, way in ways.items()]
            times = timed(ways, z.bfloat16(), repeats, device)
            for row in found:
                row |= {"channels": channels, "tokens": tokens, **times.get(row["way"], {})}
                print("  ".join(f"{name} {value}" for name, value in row.items() if name != "rounds_ms"))
            rows += found
    return rows


def make_block(channels: int) -> Any:
    """Return a block of the Pairformer, with heads of 32 and weights none of which is zero."""
    from protenix.model.modules.pairformer import PairformerBlock

    torch.manual_seed(0)
    block = PairformerBlock(c_z=channels, c_s=0, hidden_scale_up=True).eval()
    for parameter in block.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return block


def all_ways(block: Any, device: torch.device) -> dict[str, dict[str, Update]]:
    """Return how each layer can be computed: the pairs with their update, written to the pairs or not."""
    kernels = stock_kernels(device)
    dense = Rule("*", "dense")
    found: dict[str, dict[str, Update]] = {}
    for name in ("tri_mul_out", "tri_mul_in"):
        stock = getattr(block, name)
        options = {
            "inplace_safe": True,
            "_add_with_inplace": True,
            "triangle_multiplicative": kernels.multiplication,
        }
        found[name] = {
            "stock": by_stock(stock, options),
            "stock, weights in bf16": by_stock(copy.deepcopy(stock).bfloat16(), options),
            "ours": in_kernels(
                multiplication_module, device, by_stock(TriangleMultiplication(stock), options)
            ),
        }
    for name, turned in (("tri_att_start", False), ("tri_att_end", True)):
        stock = getattr(block, name)
        ours = TriangleAttention(stock, dense)
        found[name] = {
            "stock": attention(stock, turned, triangle_attention=kernels.attention),
            "ours around": cast(ours, attention(ours, turned, add_in_place=True)),
            "ours": in_kernels(triangle_module, device, attention(ours, turned, add_in_place=True)),
        }
    stock = block.pair_transition
    ours = Transition(stock)
    found["pair_transition"] = {
        "stock": lambda z: z.add_(stock(z)),
        "ours": in_kernels(transition_module, device, lambda z: ours(z, add_in_place=True)),
    }
    return found


def by_stock(layer: Any, options: dict[str, Any]) -> Update:
    """Return a layer that adds its update itself."""
    return lambda z: layer(z, **options)


def attention(layer: Any, turned: bool, **options: Any) -> Update:
    """Return the update by triangle attention, as a block has it for the starting or for the ending node."""

    def update(z: Tensor) -> Tensor:
        if "add_in_place" in options:
            layer(z.transpose(-2, -3) if turned else z, inplace_safe=True, **options)
            return z
        if turned:
            z = z.transpose(-2, -3).contiguous()
        z += layer(z, inplace_safe=True, **options)
        return z.transpose(-2, -3).contiguous() if turned else z

    return update


def in_kernels(module: Any, device: torch.device, way: Update) -> Update:
    """Have a kind of layer use its kernels meanwhile, also where that is not the rule."""

    def update(z: Tensor) -> Tensor:
        before = module.FUSED_ON
        module.FUSED_ON = {device.type} if device.type == "cuda" else before
        try:
            return way(z)
        finally:
            module.FUSED_ON = before

    return update


def cast(layer: nn.Module, way: Update) -> Update:
    """Have a layer's weights in bf16, and its norm by our kernel, as the trunk has them."""
    weights = CastWeights(layer)

    def update(z: Tensor) -> Tensor:
        with weights.in_place(z.device), own_norms(layer):
            return way(z)

    return update


@contextmanager
def own_norms(layer: nn.Module) -> Iterator[None]:
    """Our kernel in the place of the layer's norms."""
    norms = OwnNorms([layer])
    try:
        yield
    finally:
        norms.remove()


def exact_update(block: Any, layer: str, z: Tensor) -> Tensor:
    """Return what stock gives of one layer in float32, of pairs that have the digits of bf16."""
    z = z.bfloat16().float()
    own = getattr(block, layer)
    if layer.startswith("tri_mul"):
        return own(z, inplace_safe=False)
    if layer == "tri_att_end":
        return own(z.transpose(-2, -3)).transpose(-2, -3)
    return own(z)


def compared(
    layer: str, name: str, way: Update, z: Tensor, right: Tensor, device: torch.device
) -> dict[str, Any]:
    """Run a way once; what it adds to the pairs must be what stock adds."""
    z = z.bfloat16()
    step = Step(z.clone, lambda own: run(way, own))
    peak = peak_bytes(step, device)
    # Of the update alone: pairs in bf16 lose its digits, so it is measured on what they keep of it.
    kept = (z.float() + right).bfloat16().float() - z.float()
    found = run(way, z.clone()).float() - z.float()
    error = float((found - kept).norm() / kept.norm())
    return {
        "layer": layer,
        "way": name,
        "error": round(error, 5),
        "right": error <= LARGEST_ERROR,
        "peak_bytes": peak,
    }


def timed(
    ways: dict[str, Update], z: Tensor, repeats: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Return the times of all ways, a call of each in turn."""
    steps = {name: Step(z.clone, lambda own, way=way: run(way, own)) for name, way in ways.items()}
    times = interleave(
        steps,
        repeats,
        device,
        failed=lambda name, error: print(f"{name}: {error}", file=sys.stderr),
        tick=lambda *_: None,
    )
    return {
        name: {"ms": round(spread(own).median, 4), "rounds_ms": [round(time, 4) for time in own]}
        for name, own in times.items()
    }


def run(way: Update, z: Tensor) -> Tensor:
    """Under autocast, as the trunk runs."""
    with torch.autocast(z.device.type, torch.bfloat16):
        return way(z)


if __name__ == "__main__":
    raise SystemExit(main())

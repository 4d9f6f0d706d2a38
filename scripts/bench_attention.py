"""Triangle attention: the swapped layer against Protenix's own, timed on this machine.

    python scripts/bench_attention.py [--tokens 64,128,256] [--channels 128] [--repeats 7] [--json FILE]

Both layers have the same random weights and input. They run interleaved in one process, so that drift of the
machine hits both; the median after a warm-up is given, with the device synchronised.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from flashbias_fold import __version__
from flashbias_fold.pairformer import Rule, TriangleAttention
from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.kernels import stock_kernels


def main() -> None:
    """Time each size and print a table."""
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernel = stock_kernels(device).attention
    machine = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    print(
        f"{machine}, torch {torch.__version__}, stock kernel '{kernel}', "
        f"{options.channels} channels, 4 heads of 32"
    )
    print(f"{'tokens':>7} {'stock ms':>10} {'dense ms':>10} {'ratio':>7}")
    rows = []
    for tokens in options.tokens:
        row = time_layers(tokens, options.channels, options.repeats, device, kernel)
        rows.append(row)
        print(f"{tokens:>7} {row['stock_ms']:>10.2f} {row['dense_ms']:>10.2f} {row['ratio']:>7.2f}")
    if options.json:
        record = {
            "machine": machine,
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("torch", "protenix")}
            | {"flashbias-fold": __version__},
            "stock_kernel": kernel,
            "channels": options.channels,
            "repeats": options.repeats,
            "rows": rows,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def time_layers(
    tokens: int, channels: int, repeats: int, device: torch.device, kernel: str
) -> dict[str, Any]:
    """Median milliseconds of both layers, and stock over dense."""
    environment.prepare()
    from protenix.model.triangular.triangular import TriangleAttention as Stock

    torch.manual_seed(0)
    stock = Stock(c_in=channels, c_hidden=32, no_heads=4).eval().to(device)
    dense = TriangleAttention(stock, Rule("*", "dense"))
    x = torch.randn(tokens, tokens, channels, device=device)
    layers: dict[str, Callable[[], object]] = {
        "stock": lambda: stock(x, triangle_attention=kernel),
        "dense": lambda: dense(x),
    }
    times: dict[str, list[float]] = {name: [] for name in layers}
    precision = torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda")
    with torch.no_grad(), precision:
        for repeat in range(repeats + 2):
            for name, layer in layers.items():
                seconds = _timed(layer, device)
                if repeat >= 2:  # the first two warm up
                    times[name].append(seconds)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    return {
        "tokens": tokens,
        "stock_ms": medians["stock"],
        "dense_ms": medians["dense"],
        "ratio": medians["stock"] / medians["dense"],
    }


def _timed(layer: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    layer()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=_numbers, default=[64, 128, 256], help="sizes, separated by commas")
    parser.add_argument("--channels", type=int, default=128, help="channels of the pair representation")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the record here too")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()

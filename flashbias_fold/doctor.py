"""What this machine has: the findings of `flashbias-fold doctor`."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flashbias_fold import __version__
from flashbias_fold.errors import FlashbiasError, SetupError

_PACKAGES = ("protenix", "torch", "numpy", "rdkit", "biotite")
_GPU_PACKAGES = (
    "triton",
    "cuequivariance-torch",
    "cuequivariance-ops-torch-cu12",
    "cuequivariance-ops-torch-cu13",
)
# What the figures of docs/benchmarks.md were measured with; requirements/gpu.txt has the whole set.
MEASURED_ON_GPU = {
    "torch": "2.11",
    "triton": "3.6",
    "cuequivariance-torch": "0.13",
    "cuequivariance-ops-torch-cu13": "0.13",
}
_ATTENTIONS = {"triton": "our Triton kernels", "sdpa": "torch's scaled-dot-product attention"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: What it is.
        value: What was found.
        ok: True, False where prediction cannot work without it, None where it is only worth knowing.
        mend: The command or change that mends it.
    """

    what: str
    value: str
    ok: bool | None = True
    mend: str | None = None


def examine() -> list[Finding]:
    """Look at everything that a prediction needs. Slow parts (imports, the self-test) come last."""
    from flashbias_fold.protenix_adapter import environment

    findings = [_machine(), *_packages()]
    if any(finding.ok is False for finding in findings):
        return findings  # nothing below can be asked without them
    try:
        environment.prepare()
    except FlashbiasError as error:
        return [*findings, Finding("Protenix", str(error), ok=False)]
    return [*findings, *_gpu(), _kernels(), _layernorm(), *_weights(), _components(), _cache(), _self_test()]


def _machine() -> Finding:
    memory = ""
    try:
        gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        memory = f", {gib:.0f} GiB of memory"
    except (ValueError, OSError):
        pass
    return Finding(
        "machine",
        f"flashbias-fold {__version__}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores{memory}",
    )


def _packages() -> list[Finding]:
    from flashbias_fold.protenix_adapter.environment import ADD_PROTENIX

    findings = []
    for name in (*_GPU_PACKAGES, *_PACKAGES):
        found = _version(name)
        if found is not None:
            findings.append(_installed(name, found))
        elif name in _PACKAGES:
            mend = ADD_PROTENIX if name == "protenix" else "make install, or pip install flashbias-fold"
            findings.append(Finding(name, "not installed", ok=False, mend=mend))
    return findings


def _installed(name: str, found: str) -> Finding:
    """A package that is there; on a GPU, whether it is the one that was measured."""
    from flashbias_fold.protenix_adapter.environment import has_nvidia_gpu

    measured = MEASURED_ON_GPU.get(name)
    if measured is None or not has_nvidia_gpu() or found.startswith(f"{measured}."):
        return Finding(name, found)
    return Finding(
        name,
        f"{found}; on GPUs this was tested and measured with {measured} alone",
        ok=None,
        mend="FLASHBIAS_FOLD_SET=gpu make install",
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> list[Finding]:
    import torch

    from flashbias_fold.protenix_adapter.driver import driver_version, why_no_gpu

    if torch.cuda.is_available():
        return [
            Finding(
                f"GPU {index}",
                f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability "
                f"{properties.major}.{properties.minor}, driver {driver_version() or 'unknown'}, "
                f"CUDA {torch.version.cuda}",
            )
            for index in range(torch.cuda.device_count())
            for properties in [torch.cuda.get_device_properties(index)]
        ]
    problem = why_no_gpu()
    if problem is None:
        return [Finding("GPU", "none; predictions run on the CPU, in minutes for small proteins", ok=None)]
    why, mend = problem
    return [
        Finding(
            "GPU",
            f"there is one, but torch cannot use it: {why}; predictions run on the CPU",
            ok=None,
            mend=mend,
        )
    ]


def _kernels() -> Finding:
    import torch

    from flashbias_fold.protenix_adapter.kernels import stock_kernels, usable_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernels = stock_kernels(device)
    dtype = usable_dtype(device, "bf16")
    mend = None
    if dtype == "bf16" and kernels.attention == "torch":  # an old card can run nothing else
        mend = "FLASHBIAS_FOLD_SET=gpu make install"
    return Finding(
        "kernels",
        f"on {device} in {dtype}: --bias dense runs {_ATTENTIONS[_backend(device)]}; --bias stock runs "
        f"Protenix's '{kernels.attention}' triangle attention and '{kernels.multiplication}' multiplication "
        f"({kernels.reason})",
        ok=None if mend else True,
        mend=mend,
    )


def _backend(device: Any) -> str:
    """Which of our attentions a triangle attention with its exact bias gets there."""
    import torch

    from flashbias_kernels import choose_backend

    rows = torch.empty(1, 64, 4, 64, 32, device=device)
    return choose_backend(rows, rows, rows, bias=rows.new_empty(1, 1, 4, 64, 64)).backend


def _layernorm() -> Finding:
    from flashbias_fold.protenix_adapter.environment import cuda_toolkit, has_nvidia_gpu, layernorm_kind

    toolkit = cuda_toolkit()
    if not has_nvidia_gpu():
        reason = "no GPU"
    elif toolkit is None:
        reason = "no CUDA toolkit to compile Protenix's with"
    else:
        reason = f"CUDA compiler {toolkit}; LAYERNORM_TYPE=torch avoids compiling"
    return Finding("LayerNorm", f"{layernorm_kind()} ({reason})")


def _weights() -> list[Finding]:
    from flashbias_fold.protenix_adapter.models import (
        AUTO,
        checkpoint_path,
        find_model,
        official_names,
        protenix_root,
    )

    on_disk = [name for name in official_names() if checkpoint_path(name).is_file()]
    folder = protenix_root() / "checkpoint"
    try:
        chosen = find_model(AUTO)
    except SetupError as error:
        findings = [Finding("default model", str(error), ok=False)]
    else:
        findings = [Finding("default model", chosen.name + (f": {chosen.banner}" if chosen.banner else ""))]
    if on_disk:
        return [Finding("official weights", f"{', '.join(on_disk)} in {folder}"), *findings]
    mend = f"flashbias-fold fetch {official_names()[0]}"
    return [Finding("official weights", f"none in {folder}", ok=None, mend=mend), *findings]


def _components() -> Finding:
    from flashbias_fold.protenix_adapter.components import open_components

    try:
        components = open_components()
        components.install(("GLY",))
    except FlashbiasError as error:
        return Finding("chemical components", str(error), ok=False, mend="flashbias-fold fetch components")
    except ImportError as error:
        # rdkit's drawing code comes along with the components and wants these even if nothing is drawn.
        return Finding("chemical components", str(error), ok=False, mend="apt install libxrender1 libxext6")
    return Finding("chemical components", components.describe())


def _cache() -> Finding:
    from flashbias_fold.protenix_adapter.components.store import default_cache_dir

    folder = default_cache_dir()
    problem = "there is no home folder" if folder is None else _problem_of_writing(folder)
    if problem is None:
        return Finding("cache", str(folder))
    return Finding(
        "cache",
        f"{folder or 'none'}: cannot be written ({problem}), so every run prepares its components anew",
        ok=None,
        mend="export FLASHBIAS_FOLD_CACHE=/a/writable/folder",
    )


def _problem_of_writing(folder: Path) -> str | None:
    """Write a file into a folder, or where it would be made, and remove it; return why that fails.

    Permissions alone do not tell: the file system may be full, or on a server that has its own rules.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.NamedTemporaryFile(dir=existing) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return None


def _self_test() -> Finding:
    """The fused attention against its definition, on every device that there is."""
    import torch

    results, ok = [], True
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        start = time.perf_counter()
        try:
            error = _attention_error(device)
        except Exception as failure:  # whatever a driver or a compiler can raise is what is looked for
            results.append(f"{device}: {type(failure).__name__}: {' '.join(str(failure).split())}")
            ok = False
            continue
        # TF32 keeps ten bits of the mantissa.
        ok = ok and error < (1e-5 if device == "cpu" else 5e-3)
        results.append(f"{device}: largest error {error:.1e} in {time.perf_counter() - start:.2f} s")
    return Finding(
        "self-test of the attention", "; ".join(results), ok=ok, mend=None if ok else "make install"
    )


def _attention_error(device: str) -> float:
    import torch

    from flashbias_kernels import biased_attention, reference_attention

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(5, 4, 37, 32, generator=generator).to(device) for _ in range(3))
    bias = torch.randn(4, 37, 37, generator=generator).to(device)
    difference = biased_attention(q, k, v, bias=bias) - reference_attention(q, k, v, bias=bias)
    return float(difference.abs().max())

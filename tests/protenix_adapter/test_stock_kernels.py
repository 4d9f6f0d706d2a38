"""Which of Protenix's own kernels and which arithmetic a card gets, against Protenix's own rules."""

import importlib.util

import pytest
import torch
from ml_collections import ConfigDict

from flashbias_fold.protenix_adapter import environment
from flashbias_fold.protenix_adapter.kernels import stock_kernels, usable_dtype

GPU = torch.device("cuda")


@pytest.fixture
def card(monkeypatch):
    """A GPU of some compute capability, with these packages installed."""

    def make(*capability, packages=("cuequivariance_torch", "cuequivariance_ops_torch")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in packages else None)

    return make


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_card_gets_what_protenix_gives_it(card, capability, dtype):
    environment.prepare()
    from runner.inference import update_gpu_compatible_configs

    card(*capability)
    default = {"triangle_attention": "cuequivariance", "triangle_multiplicative": "cuequivariance"}
    config = update_gpu_compatible_configs(ConfigDict({"dtype": dtype, **default}))
    kernels = stock_kernels(GPU)
    assert usable_dtype(GPU, dtype) == config.dtype
    assert kernels.attention == config.triangle_attention
    assert kernels.multiplication == config.triangle_multiplicative


def test_an_old_card_is_named_as_the_reason(card):
    card(7, 5)
    assert stock_kernels(GPU).reason == "compute capability 7.5 is below 8.0"


@pytest.mark.parametrize("missing", ["cuequivariance_torch", "cuequivariance_ops_torch"])
def test_a_missing_package_is_named_as_the_reason(card, missing):
    card(9, 0, packages={"cuequivariance_torch", "cuequivariance_ops_torch"} - {missing})
    kernels = stock_kernels(GPU)
    assert kernels.attention == kernels.multiplication == "torch"
    assert kernels.reason == f"{missing} is not installed"
    assert usable_dtype(GPU, "bf16") == "bf16"


def test_a_cpu_computes_in_fp32_with_plain_kernels():
    cpu = torch.device("cpu")
    assert stock_kernels(cpu).attention == stock_kernels(cpu).multiplication == "torch"
    assert usable_dtype(cpu, "bf16") == "fp32"

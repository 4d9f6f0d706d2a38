"""The examples of the package's README do what they say, as they stand there."""

from pathlib import Path

import pytest
import torch

import flashbias_kernels

README = (Path(flashbias_kernels.__file__).parent / "README.md").read_text()
EXAMPLES = [block.partition("```")[0] for block in README.split("```python\n")[1:]]


def test_there_is_an_example_of_each_kind():
    for words in (
        "factors.alibi",
        "factors.squared_distance",
        "factors.table",
        "triangle_attention(q",
        "transition(pairs",
        "triangle_multiplication(pairs",
        "project_heads(rows",
    ):
        assert any(words in example for example in EXAMPLES)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(code):
    torch.manual_seed(0)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    like = names["pairs"] if "pairs" in names else names["q"]
    assert torch.isfinite(names["out"]).all()
    assert names["out"].shape == like.shape

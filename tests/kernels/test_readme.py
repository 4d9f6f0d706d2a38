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
        "transition(q",
    ):
        assert any(words in example for example in EXAMPLES)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(code):
    torch.manual_seed(0)
    found = {}
    exec(compile(code, "README.md", "exec"), found)
    assert torch.isfinite(found["out"]).all()
    assert found["out"].shape == found["q"].shape

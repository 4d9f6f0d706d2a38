"""Bands of matrices, against loops over their diagonals."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbias_kernels.band import diagonals, far, reach_of, spread


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 11), st.integers(0, 3))
def test_a_band_is_the_diagonals_of_its_matrix(rows, columns, reach, first):
    matrix = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    band = diagonals(matrix, reach)
    assert reach_of(band) == reach
    for i in range(rows):
        for d in range(2 * reach + 1):
            j = i + d - reach
            expected = matrix[:, i, j] if 0 <= j < columns else torch.zeros(2)
            assert torch.equal(band[:, i, d], expected.double())
    distance = torch.arange(columns) - torch.arange(rows)[:, None]
    assert torch.equal(spread(band, columns), matrix.where(distance.abs() <= reach, 0.0))
    assert torch.equal(far(matrix, reach), distance.abs() > reach)
    assert torch.equal(
        spread(band[:, first:], columns, torch.arange(rows)[first:]), spread(band, columns)[:, first:]
    )


def test_what_stands_for_no_column_is_ignored():
    band = torch.full((4, 7), float("nan"))
    band[:, 3] = 1.0
    inside = diagonals(torch.ones(4, 4), 3) > 0
    band[inside & (torch.arange(7) != 3)] = 0.0
    assert torch.equal(spread(band, 4), torch.eye(4))

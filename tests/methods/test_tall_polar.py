"""The polar factor of tall matrices in float32: against decompositions in float64."""

from __future__ import annotations

import pytest
import torch

from mergesafe.methods.matrices import EPSILON, gram
from mergesafe.methods.tall_polar import tall_polar_factor


def matrix(shape: tuple[int, int], orders: float) -> torch.Tensor:
    """With singular values from 1 down by so many orders of magnitude."""
    draw = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return (u * torch.logspace(0, -orders, len(s), dtype=torch.float64)) @ vh


@pytest.mark.parametrize("orders", [0.0, 0.5, 1.0, 2.0, 2.9])
@pytest.mark.parametrize("shape", [(300, 120), (120, 300), (700, 64)])
def test_it_is_that_of_a_decomposition(shape: tuple[int, int], orders: float) -> None:
    x = matrix(shape, orders)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    found = tall_polar_factor(x, max(shape) * EPSILON)
    assert found is not None
    assert found[0].dtype == torch.float32
    error = (found[0].double() - u @ vh).norm() / (u @ vh).norm()
    assert error < 1e-5, error
    assert abs(float(found[1] / s.sum()) - 1) < 1e-5


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_may_leave_the_range_of_float32(size: float) -> None:
    x = matrix((300, 120), 1.0)
    (one, first), (other, second) = (tall_polar_factor(y, 1e-5) or () for y in (x, size * x))
    assert torch.allclose(one, other, rtol=0, atol=1e-6)
    assert float(second / first) == pytest.approx(size, rel=1e-6)


def test_what_it_leaves_to_float64() -> None:
    """Square matrices, singular values that are rounding or nearly so, and no matrix at all."""
    draw = torch.Generator().manual_seed(1)
    low = torch.randn(300, 5, generator=draw) @ torch.randn(5, 120, generator=draw)
    small = max(300, 120) * EPSILON
    for x in (matrix((120, 120), 1.0), low.double(), matrix((300, 120), 3.2), 0 * low.double()):
        assert tall_polar_factor(x, small) is None


@pytest.mark.parametrize("columns", [1, 100, 256, 700, 2500])
def test_a_gram_matrix_in_strips_is_one(columns: int) -> None:
    x = torch.randn(20, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    # sums of 20 products in float64, in another order
    assert torch.allclose(gram(x), x.T @ x, rtol=0, atol=1e-12)

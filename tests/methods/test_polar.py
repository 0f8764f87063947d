"""The polar factor and its gradient: against decompositions and differences in float64."""

from __future__ import annotations

import pytest
import torch

from mergesafe.methods.polar import polar_factor

SHAPES = [(9, 5), (5, 9), (6, 6), (7, 1)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_factor_and_values_are_those_of_a_decomposition(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    factor, values = polar_factor(matrix, 1e-7)
    # float64 rounds to 1e-16; a Gram matrix squares what numbers of 1 to 10 make of it
    assert torch.allclose(factor, u @ vh, rtol=0, atol=1e-12)
    assert torch.allclose(values.flip(0), s, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_differences(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: polar_factor(x, 1e-7), matrix)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_equal_singular_values(shape: tuple[int, int]) -> None:
    """The factor is smooth there; single values are not, and their sum is."""
    u, _, vh = torch.linalg.svd(drawn(*shape), full_matrices=False)
    matrix = (3.0 * u @ vh).requires_grad_()

    def smooth(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        factor, values = polar_factor(x, 1e-7)
        return factor, values.sum()

    assert torch.autograd.gradcheck(smooth, matrix)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_sums_of_low_rank_keep_their_rank(shape: tuple[int, int]) -> None:
    """Two matrices of rank 1 in spaces of their own: weights change none of the four vectors'
    spans, and the least squares of rounding stay out.
    """
    m, n = shape
    parts = [torch.outer(drawn(m, seed=i), drawn(n, seed=10 + i)) for i in range(2)]
    weights = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)

    def made(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        factor, values = polar_factor(w[0] * parts[0] + w[1] * parts[1], 1e-6)
        assert len(values) == 2
        return factor, values.sum()

    assert torch.autograd.gradcheck(made, weights)


def test_a_matrix_of_zeros_has_the_gradient_zero() -> None:
    matrix = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    factor, values = polar_factor(matrix, 1e-7)
    assert values.numel() == 0
    [found] = torch.autograd.grad(factor.sum() + values.sum(), matrix)
    assert torch.equal(found, torch.zeros_like(matrix))

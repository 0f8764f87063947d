"""The polar factor of a matrix, with a gradient that equal singular values do not break.

With the singular value decomposition ``T = U S V^T`` of rank r, the polar factor is ``P = U V^T``.
A derivative of U or V alone divides by differences of singular values; that of P does not. With
``W = T^T T = V S^2 V^T`` and an arriving gradient G of P::

    B = U^T G V,    K_ij = (B_ij - B_ji) / (s_i + s_j)
    dL/dT = U K V^T + (I - U U^T) G V S^-1 V^T + U S^-1 U^T G (I - V V^T)

The last term is 0 where r is the number of columns. A change of T that raises its rank has no
derivative, and is taken to leave the singular vectors that are left out where they are.

Nothing here imports torch before it is called.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from mergesafe.methods.matrices import gram


def polar_factor(matrix: Any, least: float) -> tuple[Any, Any]:
    """The polar factor of a float64 matrix [m, n], and its singular values in ascending order.

    Singular vectors whose value is at most ``least`` times the largest are left out of both. From
    the eigenvectors of the Gram matrix of the shorter side, without the decomposition:
    ``P = T (T^T T)^(-1/2)``. Both have gradients.
    """
    if matrix.shape[0] < matrix.shape[1]:
        factor, values = polar_factor(matrix.T, least)
        return factor.T, values
    factor, values = _function().apply(matrix, least)
    return factor, values


@cache
def _function() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class Polar(torch.autograd.Function):
        """For a matrix with no more columns than rows."""

        @staticmethod
        def forward(ctx: Any, matrix: Any, least: float) -> tuple[Any, Any]:
            squares, vectors = torch.linalg.eigh(gram(matrix))
            lowest = least**2 * squares[-1]
            # the squares ascend; none is kept of a matrix of zeros
            first = int((squares <= lowest.clamp(min=0.0)).sum())
            vectors, values = vectors[:, first:], squares[first:].sqrt()
            ctx.save_for_backward(matrix, vectors, values)
            return matrix @ gram((vectors / values.sqrt()).T), values

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Any, of_values: Any) -> tuple[Any, None]:
            matrix, vectors, values = ctx.saved_tensors
            scaled = vectors / values
            projected = scaled.T @ (matrix.T @ gradient)  # U^T G
            inner = projected @ vectors
            turned = (inner - inner.T) / (values + values.unsqueeze(1))
            # dL/dT = T C + G V S^-1 V^T, so that U is never made
            core = (turned - inner / values) @ vectors.T
            core += of_values.unsqueeze(1) * vectors.T
            if len(values) < len(vectors):
                outside = projected - inner @ vectors.T
                core += outside / values.unsqueeze(1)
            return matrix @ (scaled @ core) + gradient @ (scaled @ vectors.T), None

    return Polar

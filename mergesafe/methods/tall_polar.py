"""The polar factor of a tall matrix in float32, to 1e-5: faster than by way of float64.

The Gram matrix ``T^T T`` squares singular values s_i, so that in float32 its eigenvectors V leave
``T V = Y D`` with columns Y of length 1 that are not quite orthogonal where s_i / s_1 is small:
``Y^T Y = G`` is near I. The polar factor of T is ``Y W V^T`` for the W that makes

    W^T G W = I   and   H = W^T G D   symmetric

which small matrices decide. With R = W^T G W - I and the entries of H as they are, a step of
Newton's method that takes H for D is ``W <- W (I + K - R / 2)``, where K is skew and

    K_ij (d_i + d_j) = A_ij - A_ji,   A = H - R D / 2

Nothing is divided by differences of singular values, and columns of very different lengths are as
exact as those of equal ones. The trace of H is the sum of the singular values.
"""

from __future__ import annotations

from typing import Any, Final

from mergesafe.methods.matrices import EPSILON, gram

#: Rows for each column from which on it is faster: eigenvectors of a square matrix take longest.
ROWS: Final = 1.5
#: Singular values relative to the largest, below which float32 has not the digits for 1e-5.
SMALLEST: Final = 1e-3
#: The error, relative to the norm of the factor, that is left; and steps before it is given up.
ERROR: Final = 1e-6
STEPS: Final = 5


def tall_polar_factor(matrix: Any, least: float) -> tuple[Any, Any] | None:
    """(the polar factor in float32, the sum of the singular values) of a float64 matrix [m, n].

    None where float64 has to decide: of matrices that are nearly square, that have singular values
    of little more than ``least`` or less than :data:`SMALLEST` times the largest, and of those that
    a few steps do not solve.
    """
    import torch

    if matrix.shape[0] < matrix.shape[1]:
        turned = tall_polar_factor(matrix.T, least)
        return None if turned is None else (turned[0].T, turned[1])
    size = matrix.abs().max()
    if matrix.shape[0] < ROWS * matrix.shape[1] or not size > 0:
        return None
    narrow = (matrix / size).float()  # so that squares stay within the range of float32
    squares, vectors = torch.linalg.eigh(gram(narrow))
    if not squares[0] > 0:
        return None
    if EPSILON * (squares[-1] / squares).mean() < ERROR:
        values = squares.sqrt()
        return narrow @ gram((vectors / values.sqrt()).T), values.double().sum() * size
    columns = narrow @ vectors
    lengths = torch.linalg.vector_norm(columns, dim=0)
    if not lengths.min() > max(SMALLEST, 2.0 * least) * lengths.max():
        return None
    columns /= lengths
    inner = gram(columns)
    mixed = _mixed(inner, lengths)
    if mixed is None:
        return None
    total = ((mixed * inner).sum(0) * lengths).double().sum()
    return columns @ (mixed @ vectors.T), total * size


def _mixed(inner: Any, lengths: Any) -> Any:
    """W of the head of this module, with G = ``inner``; None where the steps find none."""
    import torch

    n = len(lengths)
    one = torch.eye(n).to(inner)
    sums = lengths + lengths.unsqueeze(1)
    mixed = one - (inner - one) * (lengths.unsqueeze(1) / sums)  # one step from W = I
    before = float((inner - one).norm()) / n**0.5
    left = before**2
    for _ in range(STEPS):
        if left < ERROR:
            return mixed
        turned = inner @ mixed
        rest = mixed.T @ turned - one
        skewed = turned.T * lengths - 0.5 * rest * lengths
        step = (skewed - skewed.T) / sums - 0.5 * rest
        mixed = mixed + mixed @ step
        now = float(step.norm()) / n**0.5
        left = now * min(1.0, now / before) if now < 1.0 else now
        before = now
    return mixed if left < ERROR else None

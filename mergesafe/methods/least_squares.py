"""The average of matrices that is nearest to all of them in the directions that each cares about.

With matrices X_t of shape [m, n], what each cares about as a Gram matrix C_t of shape [n, n], and
weights c_t, the sum of ``c_t * trace((M - X_t) C_t (M - X_t)^T)`` over t is smallest at

    M = (sum_t c_t X_t C_t) (sum_t c_t C_t)^-1

Sums and solution are float64.
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.contract import BrokenContractError


class NormalEquations:
    """``M grams = products``, both sums over what was added; 0.0 before anything was."""

    def __init__(self) -> None:
        self.products: Any = 0.0
        self.grams: Any = 0.0

    def add(self, matrix: Any, gram: Any, weight: Any = 1.0, *, factor: Any = 1.0) -> None:
        """One X_t, of any type, times ``factor``, with its C_t in float64."""
        self.grams = self.grams + weight * gram
        self.products = self.products + weight * factor * (matrix.double() @ gram)

    def solved(self, singular: BrokenContractError, ridge: float = 0.0) -> Any:
        """M in float32, with ``ridge`` times the mean of the grams' diagonal added to it.

        Raises:
            BrokenContractError: ``singular``, where the grams have no Cholesky decomposition.
        """
        import torch

        grams = self.grams
        if ridge:
            grams = grams + ridge * grams.diagonal().mean() * torch.eye(len(grams)).to(grams)
        factor, failed = torch.linalg.cholesky_ex(grams)
        if failed:
            raise singular
        return torch.cholesky_solve(self.products.mT, factor).mT.float()

    def pseudo_solved(self, least: float) -> Any:
        """M of smallest norm, in float32.

        Directions in which the square root of the grams is at most ``least`` of its largest value
        are rounding, and get nothing.
        """
        import torch

        squares, vectors = torch.linalg.eigh(self.grams)
        first = int((squares <= (least**2 * squares[-1]).clamp(min=0.0)).sum())
        squares, vectors = squares[first:], vectors[:, first:]
        return (((self.products @ vectors) / squares) @ vectors.mT).float()

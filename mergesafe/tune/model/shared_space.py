"""Task vectors of low rank in the space that they share, where decompositions are small.

The task vectors of a few LoRA experts of one matrix [m, n] have their columns in one space of few
dimensions and their rows in another. With orthonormal bases P [m, r] and Q [n, s] of these,
``tau_i = P M_i Q^T``, and a function that turns with its input gives ``f(tau) = P f(M) Q^T``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch

from mergesafe.methods.matrices import EPSILON
from mergesafe.ops.tiles import Tile

#: Directions in which every task vector is smaller than this share of what a method takes for
#: rounding (``max(m, n) * EPSILON`` of the largest) are left out: less of them than of others may
#: be rounding once the task vectors are weighted.
_MARGIN: Final = 1 / 16
#: Of the shorter side's dimensions: a larger space spares too little.
_MOST: Final = 0.5


@dataclass(frozen=True)
class SharedSpace:
    """``left`` is P and ``right`` is Q, float32; ``tile`` has the M_i as its inputs, float64, and a
    base of zeros.
    """

    left: torch.Tensor
    right: torch.Tensor
    tile: Tile

    def lifted(self, made: torch.Tensor) -> torch.Tensor:
        """``P M Q^T`` of what was made of the M_i, flat as it comes and as it goes."""
        core = made.view(self.left.shape[1], self.right.shape[1])
        return (self.left @ (core @ self.right.T)).reshape(-1)


def shared_space(tile: Tile) -> SharedSpace | None:
    """None where the task vectors are not matrices of low rank."""
    if len(tile.tensor.shape) != 2 or min(tile.tensor.shape) == 0 or tile.base is None:
        return None
    base = tile.base.double()
    deltas = [x.double() - base for x in tile.inputs]
    if not all(bool(d.isfinite().all()) for d in deltas):
        return None
    # of one length, so that a short task vector beside a long one is not rounding
    units = [d / d.norm() for d in deltas if bool(d.any())]
    least = max(tile.tensor.shape) * EPSILON * _MARGIN
    flipped = base.shape[0] < base.shape[1]
    right = _basis([d.T for d in units] if flipped else units, least)
    if right is None or right.shape[1] > _MOST * min(base.shape):
        return None
    along = [(d.T if flipped else d) @ right for d in units]
    narrow = _basis([torch.cat(along, dim=1)], least)
    assert narrow is not None  # as there are directions, there is something along them
    left = torch.linalg.qr(torch.cat(along, dim=1) @ narrow).Q
    if flipped:
        left, right = right, left
    cores = tuple(left.T @ d @ right for d in deltas)
    small = replace(tile, base=torch.zeros_like(cores[0]), inputs=cores, calibration={})
    return SharedSpace(left.float(), right.float(), small)


def _basis(matrices: list[torch.Tensor], least: float) -> torch.Tensor | None:
    """Orthonormal columns that span the rows of all; None of none."""
    if not matrices:
        return None
    gram = matrices[0].T @ matrices[0]
    for x in matrices[1:]:
        gram += x.T @ x
    squares, vectors = torch.linalg.eigh(gram)
    found: torch.Tensor = vectors[:, squares > least**2 * squares[-1]]
    return found

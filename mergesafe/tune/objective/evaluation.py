"""What searches minimise, and what they learn at a point: the interface of every objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Evaluation:
    """An objective's value at some coefficients.

    ``terms``: the losses before weighting, and the penalties. ``gradient``: like the
    coefficients, None where it was not asked for. ``forward_passes``: batches that went forward
    through the merged model, not counting what DPO's reference and KL's expert say once of all;
    ``examples``: how many examples they held.
    """

    value: float
    terms: dict[str, float]
    gradient: torch.Tensor | None
    forward_passes: int
    examples: int


class Evaluates(Protocol):
    """An objective. One that computes a point at a time, in this process, inherits the rest."""

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """The value at ``x``, with its gradient if ``grad``; ``step`` chooses the examples."""
        ...

    def expect(self, points: Sequence[torch.Tensor], *, step: int = 0) -> None:
        """Announce the points of the next evaluations, without gradients, so that all can begin."""
        return None

    @property
    def parallel(self) -> int:
        """How many points are computed at a time."""
        return 1

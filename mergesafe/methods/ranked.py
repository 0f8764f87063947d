"""Keep probabilities that grow with the rank of a magnitude in its row: MAGPRUNE of DELLA.

Ranks run within rows of the last dimension, of which a vector is one. With n columns, the element
of rank r (0 is the smallest |delta|, equal ones by index) is kept with the probability
``density - epsilon + 2 * epsilon * r / (n - 1)``; with a single column, with ``density``.

Deep, Bhardwaj & Poria, https://arxiv.org/abs/2406.11617.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from mergesafe.errors import ArgumentError
from mergesafe.methods.masks import RankMask
from mergesafe.methods.sparsify import Rescale, random_key, rescale_factors
from mergesafe.methods.spec import DeltaNorms, Sparsify, Statistic, TensorContext

#: Asks for statistics, returns one rescale factor and one mask per expert.
Ranked: TypeAlias = Generator[Statistic, Any, tuple[list[Sparsify], tuple[RankMask, ...]]]

_WORDS = 2.0**32


def ranked_masks(
    tensor: TensorContext,
    densities: Sequence[float],
    epsilons: Sequence[float],
    rescale: Rescale,
) -> Ranked:
    """Masks by rank, and :class:`Sparsify` that keep all but carry the rescale factors.

    Raises:
        ArgumentError: a density lies within its epsilon of 0 or 1, but is neither.
    """
    columns = tensor.shape[-1] if tensor.shape else 1
    if all(density >= 1.0 for density in densities):
        return [Sparsify() for _ in densities], ()
    ranked = tuple(
        rank_mask(density, epsilon, columns, random_key(tensor.seed, tensor.name, i))
        for i, (density, epsilon) in enumerate(zip(densities, epsilons, strict=True))
    )
    factors = [1.0] * len(ranked)
    if rescale == "inverse_density":
        factors = [1.0 / density if density > 0.0 else 1.0 for density in densities]
    elif rescale != "none":
        norms = yield DeltaNorms(rescale, tuple(Sparsify() for _ in ranked), ranked)
        factors = rescale_factors(norms)
    return [Sparsify(rescale=factor) for factor in factors], ranked


def rank_mask(density: float, epsilon: float, columns: int, key: int) -> RankMask:
    """The mask of one expert; see the module."""
    if density >= 1.0:
        return RankMask(_WORDS, 0.0, key, columns)
    if density <= 0.0:
        return RankMask(0.0, 0.0, key, columns)
    if not (density - epsilon > 0.0 and density + epsilon < 1.0):
        raise ArgumentError(
            f"density {density:g} with epsilon {epsilon:g} gives keep probabilities from "
            f"{density - epsilon:g} to {density + epsilon:g}; expected both between 0 and 1: "
            f"choose an epsilon below {min(density, 1.0 - density):g}"
        )
    if columns == 1:
        return RankMask(density * _WORDS, 0.0, key, columns)
    step = 2.0 * epsilon * _WORDS / (columns - 1)
    return RankMask((density - epsilon) * _WORDS, step, key, columns)

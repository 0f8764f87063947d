"""Merge methods in float64 with plain torch, written from their definitions: the truth in tests.

Nothing here is shared with the package. Every function takes and returns whole tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Tensor = torch.Tensor


def linear(models: Sequence[Tensor], weights: Sequence[float], normalize: bool = True) -> Tensor:
    total = sum(weights) if normalize else 1.0
    return sum(w * x.double() for w, x in zip(weights, models, strict=True)) / total


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    a, b = a.double(), b.double()
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    theta = math.acos(cosine)
    return (math.sin((1 - t) * theta) * a + math.sin(t * theta) * b) / math.sin(theta)


def largest(delta: Tensor, density: float) -> Tensor:
    """The elements among the k largest magnitudes, all that equal the k-th included."""
    k = max(1, int(density * delta.numel()))
    magnitudes = delta.abs().flatten()
    threshold = magnitudes.sort(descending=True).values[k - 1]
    return torch.where(delta.abs() >= threshold, delta, 0)


def without_outliers(delta: Tensor, density: float, gamma: float) -> Tensor:
    """Ascending ranks [bot, bot + k), all that equal a bound included."""
    n = delta.numel()
    k, top = int(density * n), int(gamma * n)
    bottom = max(0, n - k - top)
    ascending = delta.abs().flatten().sort().values
    low, high = ascending[bottom], ascending[bottom + k - 1]
    return torch.where((delta.abs() >= low) & (delta.abs() <= high), delta, 0)


def rescaled(kept: Tensor, delta: Tensor, rule: str) -> Tensor:
    order = {"l1": 1, "l2": 2, "linf": math.inf}[rule]
    before = torch.linalg.vector_norm(delta, order)
    return kept * before / torch.linalg.vector_norm(kept, order)


def add_task_vectors(
    base: Tensor,
    deltas: Sequence[Tensor],
    weights: Sequence[float],
    *,
    elect: str = "none",
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Weight, elect, sum, normalise, scale, add to the base; ``deltas`` are sparsified already."""
    weighted = torch.stack([w * d for w, d in zip(weights, deltas, strict=True)])
    factors = torch.tensor(weights, dtype=torch.float64).view(-1, *[1] * base.dim())
    if elect == "none":
        divisor = torch.tensor(float(sum(weights)), dtype=torch.float64)
        divisor = torch.where(divisor.abs() < 1e-8, 1.0, divisor)
    else:
        votes = weighted.sign() if elect == "count" else weighted
        majority = torch.where(votes.sum(0) >= 0, 1.0, -1.0)
        agrees = weighted.sign() == majority
        weighted = weighted * agrees
        divisor = (factors * agrees).sum(0)
        divisor = torch.where(divisor == 0, 1.0, divisor)
    merged = weighted.sum(0) / divisor if normalize else weighted.sum(0)
    return base.double() + scale * merged

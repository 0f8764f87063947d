"""The measured operations as a user of torch writes them: float32 arithmetic, no kernels.

Each takes (grad, base, experts) and uses what it needs. These are what ``torch.compile`` gets too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.cases import MEDIAN_BITS
from bench.data import DENSITY, weights_of

Expression = Callable[[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]], Any]
#: The magnitude that ``merge_ties`` and its gradient trim at.
THRESHOLD = float(torch.tensor(MEDIAN_BITS, dtype=torch.int32).view(torch.float32))


def weighted_sum(
    grad: torch.Tensor, base: torch.Tensor, experts: Sequence[torch.Tensor]
) -> torch.Tensor:
    parts = [x.float() * w for x, w in zip(experts, weights_of(len(experts)), strict=True)]
    return sum(parts[1:], parts[0]).to(experts[0].dtype)


def task_arithmetic(
    grad: torch.Tensor, base: torch.Tensor, experts: Sequence[torch.Tensor]
) -> torch.Tensor:
    b = base.float()
    merged = b
    for x, w in zip(experts, weights_of(len(experts)), strict=True):
        merged = merged + (x.float() - b) * w
    return merged.to(base.dtype)


def trimmed(delta: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    return torch.where(delta.abs() >= threshold, delta, 0.0)


def elected(parts: torch.Tensor, weights: Sequence[float]) -> tuple[torch.Tensor, ...]:
    """Of weighted task vectors [experts, elements]: which agree, their sum over the sum of their
    weights, and that divisor.
    """
    sign = torch.where(parts.sum(0) >= 0, 1.0, -1.0)
    agrees = parts * sign > 0
    row = torch.tensor(weights, device=parts.device).unsqueeze(1)
    divisor = (agrees * row).sum(0)
    divisor = torch.where(divisor == 0, 1.0, divisor)
    return agrees, (agrees * parts).sum(0) / divisor, divisor


def ties_at(
    base: torch.Tensor, experts: Sequence[torch.Tensor], thresholds: Sequence[torch.Tensor | float]
) -> torch.Tensor:
    b, weights = base.float(), weights_of(len(experts))
    rows = zip(experts, thresholds, weights, strict=True)
    parts = torch.stack([trimmed(x.float() - b, t) * w for x, t, w in rows])
    return (b + elected(parts, weights)[1]).to(base.dtype)


def ties(grad: torch.Tensor, base: torch.Tensor, experts: Sequence[torch.Tensor]) -> torch.Tensor:
    return ties_at(base, experts, [THRESHOLD] * len(experts))


def thresholds(base: torch.Tensor, experts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The least magnitude of the ``DENSITY`` share of largest, of each task vector."""
    above = base.numel() - int(DENSITY * base.numel()) + 1
    return [(x.float() - base.float()).abs().kthvalue(above).values for x in experts]


def ties_whole(
    grad: torch.Tensor, base: torch.Tensor, experts: Sequence[torch.Tensor]
) -> torch.Tensor:
    return ties_at(base, experts, thresholds(base, experts))


def inner_products(
    grad: torch.Tensor, base: torch.Tensor, experts: Sequence[torch.Tensor]
) -> torch.Tensor:
    g = grad.float()
    return torch.stack([(g * x.float()).sum() for x in experts])


def gradient_task_arithmetic(
    grad: torch.Tensor, base: torch.Tensor, experts: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Of the weights; nothing is left to add for the scale."""
    g, b = grad.float(), base.float()
    sums = [(g * (x.float() - b)).sum() for x in experts]
    return torch.stack([*sums, torch.zeros_like(sums[0])])


def gradient_ties(
    grad: torch.Tensor, base: torch.Tensor, experts: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Of the weights, then of the scale, masks and signs constant."""
    g, b, weights = grad.float(), base.float(), weights_of(len(experts))
    kept = [trimmed(x.float() - b, THRESHOLD) for x in experts]
    parts = torch.stack([u * w for u, w in zip(kept, weights, strict=True)])
    agrees, mean, divisor = elected(parts, weights)
    share = g / divisor
    rows = [(share * agrees[i] * (u - mean)).sum() for i, u in enumerate(kept)]
    return torch.stack([*rows, (g * mean).sum()])


EXPRESSIONS: dict[str, Expression] = {
    "weighted_sum": weighted_sum,
    "merge_task_arithmetic": task_arithmetic,
    "merge_ties": ties,
    "merge_jobs": ties,
    "ties_whole": ties_whole,
    "inner_products": inner_products,
    "gradient_task_arithmetic": gradient_task_arithmetic,
    "gradient_ties": gradient_ties,
}

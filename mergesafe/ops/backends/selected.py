"""Masks by rank in a row and by the variance over experts, and counts of changes, in plain torch.

The specification of csrc/core/rank_mask.h, csrc/core/score.h and csrc/cpu/changes.inl, and what
every backend but the compiled one for processors runs: sorting is stable and all arithmetic is one
operation at a time, so that the bits are the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from mergesafe.methods.masks import RankMask
from mergesafe.ops.backends.elementary import (
    HISTOGRAM_BINS,
    LOW_BITS,
    agreement,
    arithmetic,
    continued_norm,
    delta_of,
    magnitude_bits,
    number,
    pick,
    random_words,
    rounded,
    stored,
    sum_in_order,
)

_WORDS: Final = 2.0**32
_LEAST_SHARE: Final = 1e-6


class SelectedByTorch:
    """The methods on selected elements of :class:`mergesafe.ops.backends.base.Backend`."""

    def ranked_experts(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        masks: Sequence[RankMask],
        offset: int,
    ) -> list[torch.Tensor]:
        found = []
        for x, mask in zip(experts, masks, strict=True):
            keep = rank_keep(x, base, mask, offset)
            alike = x.dtype == base.dtype
            found.append(torch.where(keep, x, base) if alike else _mixed(keep, x, base))
        return found

    def count_changes(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        epsilon: float,
        totals: Sequence[int],
    ) -> list[int]:
        least = number(epsilon, torch.float32)
        changes = torch.stack([~(delta_of(x, base).abs() <= least) for x in experts])
        shared = changes & (changes.sum(dim=0) > 1)
        all_of, shared_of = (torch.count_nonzero(x, dim=1).tolist() for x in (changes, shared))
        found = [n for a, s in zip(all_of, shared_of, strict=True) for n in (a - s, s)]
        return [total + n for total, n in zip(totals, found, strict=True)]

    def score_histogram(
        self, base: torch.Tensor, experts: Sequence[torch.Tensor], prefix: int | None
    ) -> tuple[torch.Tensor, int]:
        bits = score_bits(base, experts)
        high, low = bits >> LOW_BITS, bits & ((1 << LOW_BITS) - 1)
        bins = high if prefix is None else low[high == prefix]
        return torch.bincount(bins, minlength=HISTOGRAM_BINS), int(torch.count_nonzero(bits))

    def score_norms(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        lo: int,
        totals: Sequence[float],
    ) -> list[float]:
        keep = score_bits(base, experts) >= lo
        return [
            continued_norm("l2", pick(keep, delta_of(x, base)), total)
            for x, total in zip(experts, totals, strict=True)
        ]

    def merge_selected(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        lo: int,
        weights: Sequence[float],
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        real = arithmetic([base, *experts])
        b = base.to(real)
        keep = score_bits(base, experts) >= lo
        kept = [pick(keep, x.to(real) - b) for x in experts]
        agrees = agreement(kept, "sum")
        sums, shares = [], []
        for a, d, w in zip(agrees, kept, weights, strict=True):
            weight = number(w, real)
            sums.append(pick(a, d * weight))
            shares.append(pick(a, torch.full_like(d, weight)))
        share = sum_in_order(shares)
        least = torch.full_like(share, number(_LEAST_SHARE, real))
        change = sum_in_order(sums) / torch.where(share < least, least, share)
        merged = torch.where(change == 0, b, b + change)
        return stored(rounded(merged, out_dtype), out)


def rank_keep(x: torch.Tensor, base: torch.Tensor, mask: RankMask, offset: int) -> torch.Tensor:
    """Which elements survive; ``offset`` is the number of the first element in its tensor."""
    bits = magnitude_bits(delta_of(x, base)).view(-1, mask.columns)
    order = bits.sort(dim=1, stable=True).indices
    counted = torch.arange(mask.columns, device=x.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, counted)
    threshold = ranks.to(torch.float64) * mask.step
    threshold = (threshold + mask.low).clamp(0.0, _WORDS).to(torch.int64).view(-1)
    words = random_words(offset, x.numel(), mask.key, x.device)
    return (words < threshold) & (bits.view(-1) != 0)


def score_bits(base: torch.Tensor, experts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Bits of the float32 sums of squared distances of the deltas from their mean."""
    deltas = [delta_of(x, base).to(torch.float64) for x in experts]
    total = torch.zeros_like(deltas[0])
    for d in deltas:
        total = total + d
    # a tensor divisor, because torch multiplies by the reciprocal of a number on CUDA
    mean = total / torch.full_like(total, float(len(deltas)))
    squares = torch.zeros_like(total)
    for d in deltas:
        off = d - mean
        squares = squares + off * off
    return magnitude_bits(squares.float())


def _mixed(keep: torch.Tensor, x: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(torch.promote_types(x.dtype, base.dtype), torch.float32)
    return torch.where(keep, x.to(wide), base.to(wide))

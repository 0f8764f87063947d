"""Exact selection of magnitudes on the device, digit by digit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergesafe.ops.backends import triton_kernels as kernels
from mergesafe.ops.backends.triton_launch import launch
from mergesafe.ops.backends.triton_sums import power_of_two

#: The 31 magnitude bits in digits, highest first: (bits below, number of digits).
DIGITS = ((20, 2048), (10, 1024), (0, 1024))
#: Elements that a program counts at a time, how many times at most, and how many programs there
#: should be before it does so more than once.
TILE, MAX_STEPS, PROGRAMS = 4096, 16, 512


def selected(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], ks: Sequence[int]) -> list[int]:
    """Bits of the k-th largest ``|expert - base|`` of each pair (base, expert).

    A radix selection: count the highest digit, find on the device the one that holds the k-th,
    count the next digit among the magnitudes that begin so, and so on.
    """
    if not pairs:
        return []
    device = pairs[0][0].device
    rest = torch.tensor(ks, dtype=torch.int64).to(device, non_blocking=True).unsqueeze(1)
    prefixes = torch.zeros(len(pairs), dtype=torch.int32, device=device)
    for shift, bins in DIGITS:
        counts = torch.zeros((len(pairs), bins), dtype=torch.int64, device=device)
        for query, (base, x) in enumerate(pairs):
            shares = base.numel() // (TILE * PROGRAMS)
            steps = min(power_of_two(shares), MAX_STEPS)
            launch(
                kernels.digit_counts,
                base.numel(),
                TILE * steps,
                counts,
                base,
                x,
                prefixes,
                query,
                base.numel(),
                SHIFT=shift,
                BINS=bins,
                BLOCK=TILE,
                STEPS=steps,
                num_warps=8,
            )
        descending = counts.flip(1)
        at_least = descending.cumsum(1)
        place = (at_least < rest).sum(1, keepdim=True)
        rest = rest - (at_least - descending).gather(1, place)
        prefixes = prefixes * bins + (bins - 1 - place.squeeze(1)).to(torch.int32)
    found: list[int] = prefixes.tolist()
    return found

"""From the float64 sums of a backward pass to the gradients of weights and scales."""

from __future__ import annotations

import torch

from mergesafe.ops.backends.base import Elect
from mergesafe.ops.numbers import TINY_DIVISOR


def sums_of_weights(weights: torch.Tensor) -> torch.Tensor:
    """[jobs]: the sum of every row of weights, in order, as kernels add them up."""
    total = torch.zeros_like(weights[:, 0])
    for column in weights.unbind(1):
        total = total + column
    return total


def finish(
    sums: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor, elect: Elect, normalize: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of weights [jobs, experts] and scales [jobs], float64.

    ``sums`` are those of :meth:`mergesafe.ops.backends.base.Backend.merge_gradients`. With ``R_i``
    the sum of expert i and, without election, ``D`` the divisor::

        elect and normalize:  d/dw_i = scale * R_i                d/dscale = R_last
        elect:                d/dw_i = scale * R_i                d/dscale = Q = sum_i w_i R_i
        normalize:            d/dw_i = scale * (R_i - Q/D) / D    d/dscale = Q / D
        neither:              d/dw_i = scale * R_i                d/dscale = Q

    A divisor that fell back to 1 is a constant. Small tensors in, small tensors out: nothing is
    read on the host.
    """
    raw, last = sums[:, :-1], sums[:, -1]
    wide = weights.double()
    if elect != "none" and normalize:
        return raw * scales.double().unsqueeze(1), last
    mean = torch.zeros_like(last)
    for weight, term in zip(wide.unbind(1), raw.unbind(1), strict=True):
        mean = mean + weight * term
    if normalize:
        total = sums_of_weights(weights).double()
        live = total.abs() >= TINY_DIVISOR
        divisor = total.where(live, torch.ones_like(total))
        mean = mean / divisor
        raw = (raw - (mean * live).unsqueeze(1)) / divisor.unsqueeze(1)
    return raw * scales.double().unsqueeze(1), mean

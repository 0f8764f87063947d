"""The fused combinations in plain torch: what the kernels of csrc/core/fused.h must equal bit for
bit, and what tuning differentiates.

One function per kernel. It is given float32 tensors (float64 ones for the truth that results are
compared with) and coefficients as scalars of that dtype, and makes one operation at a time, in the
order of the kernel. What is divided is a tensor: torch divides a Python number by multiplying with
a reciprocal, which rounds twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import torch

Tensor: TypeAlias = torch.Tensor
#: (base, inputs, coefficients) -> merged values.
Element: TypeAlias = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor]


def nearswap(base: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``base + (x - base) * share`` with ``share = t / max(|x - base|, 1e-6)`` within [0, 1].

    A share of 1 gives x as it is, a change of zero the base as it is.
    """
    [x], [t] = inputs, coefficients
    delta = x - base
    least = torch.full_like(base, 1e-6)
    distance = delta.abs()
    ratio = t.expand_as(base) / torch.where(distance > least, distance, least)
    capped = torch.where(ratio < 1, ratio, torch.ones_like(ratio))
    share = torch.where(capped > 0, capped, torch.zeros_like(capped))
    change = delta * share
    moved = torch.where(change == 0, base, base + change)
    return torch.where(share == 1, x, moved)


def magmax(base: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``base + lambda * d`` with d the one of the ``x - base`` that is largest in magnitude.

    Of equal ones the first; NaN is larger than all. A change of zero gives the base as it is.
    """
    [scale] = coefficients
    largest = inputs[0] - base
    for x in inputs[1:]:
        delta = x - base
        larger = (delta.abs() > largest.abs()) | delta.isnan()
        largest = torch.where(larger, delta, largest)
    change = largest * scale
    return torch.where(change == 0, base, base + change)


ELEMENTS: Final[Mapping[str, Element]] = {"nearswap": nearswap, "magmax": magmax}

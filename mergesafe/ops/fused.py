"""The fused combinations in plain torch: what the kernels of csrc/core/fused.h must equal bit for
bit, and what tuning differentiates.

One function per kernel. It is given float32 tensors (float64 ones for the truth that results are
compared with) and coefficients as scalars of that dtype, those of single inputs last, and makes one
operation at a time, in the order of the kernel. What is divided is a tensor: torch divides a Python
number by multiplying with a reciprocal, which rounds twice.
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


def ram(base: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``base`` plus the change of the one input that changes the element, times the factor of that
    input, or plus the mean of the changes of several.

    Coefficients: epsilon, then the factor of each input. An input changes an element where
    ``|x - base|`` is above epsilon, or NaN. A change of zero gives the base as it is.
    """
    epsilon, *factors = coefficients
    nothing, one = torch.zeros_like(base), torch.ones_like(base)
    total = count = factor = nothing
    for x, own in zip(inputs, factors, strict=True):
        delta = x - base
        changes = ~(delta.abs() <= epsilon)
        total = total + torch.where(changes, delta, nothing)
        count = count + torch.where(changes, one, nothing)
        factor = factor + torch.where(changes, own, nothing)
    shared = count > 1
    change = torch.where(shared, total / torch.where(shared, count, one), total * factor)
    return torch.where(change == 0, base, base + change)


def consensus(base: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``base + lambda * keep * T`` with T the sum of the ``d_i = x_i - base``.

    Coefficients: agreement, lambda, then the threshold t_i of each input. keep is 1 where
    ``|d_i| >= t_i |T - d_i|`` for ``agreement`` inputs or more, else 0.
    """
    agreement, scale, *thresholds = coefficients
    total = _sum_of_deltas(base, inputs)
    nothing, one = torch.zeros_like(base), torch.ones_like(base)
    claims = nothing
    for x, threshold in zip(inputs, thresholds, strict=True):
        delta = x - base
        claimed = delta.abs() >= threshold * (total - delta).abs()
        claims = claims + torch.where(claimed, one, nothing)
    keep = torch.where(claims >= agreement, one, nothing)
    return base + (keep * total) * scale


def emr(base: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``base + lambda * s * m`` with s the sign of the sum of the ``x_i - base``, 0 for NaN, and m
    the largest magnitude of those that have it. NaN is larger than all.
    """
    [scale] = coefficients
    sign = _sum_of_deltas(base, inputs).sign()
    largest = torch.zeros_like(base)
    for x in inputs:
        towards = (x - base) * sign
        largest = torch.where((towards > largest) | towards.isnan(), towards, largest)
    return base + (sign * largest) * scale


def stitch(base: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``base + lambda * K / max(1, n)`` with K the sum of the n ``x_i - base`` that reach their
    floor.

    Coefficients: lambda, then the floor of each input.
    """
    scale, *floors = coefficients
    nothing, one = torch.zeros_like(base), torch.ones_like(base)
    total = kept = nothing
    for x, floor in zip(inputs, floors, strict=True):
        delta = x - base
        keep = torch.where(delta.abs() >= floor, one, nothing)
        total = total + keep * delta
        kept = kept + keep
    return base + (total / torch.where(kept > 1, kept, one)) * scale


def resta(base: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``base + gamma * (aligned - unaligned)``, where the base is the model that is merged."""
    [aligned, unaligned], [gamma] = inputs, coefficients
    return base + (aligned - unaligned) * gamma


def fisher(base: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``sum_i w_i F_i x_i / sum_i w_i F_i`` of inputs x_i and, after them, their F_i, of which
    values below the floor are raised to it. The base is not looked at.

    Coefficients: the floor, then the weight of each input.
    """
    floor, *weights = coefficients
    diagonals = inputs[len(weights) :]
    sums = total = torch.zeros_like(base)
    for x, diagonal, weight in zip(inputs, diagonals, weights, strict=False):
        share = torch.where(diagonal < floor, floor, diagonal) * weight
        sums = sums + share * x
        total = total + share
    return sums / total


def _sum_of_deltas(base: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(base)
    for x in inputs:
        total = total + (x - base)
    return total


ELEMENTS: Final[Mapping[str, Element]] = {
    "nearswap": nearswap, "magmax": magmax, "ram": ram, "consensus": consensus, "emr": emr,
    "stitch": stitch, "resta": resta, "fisher": fisher,
}  # fmt: skip

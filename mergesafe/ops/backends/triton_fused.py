"""The fused combinations of csrc/core/fused.h in Triton: a function for each, and the kernel that
runs them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mergesafe.ops.backends.triton_elements import bits_of, changed, float_of, load, store


@triton.jit
def nearswap(base, inputs, coefficients):
    """See :func:`mergesafe.ops.fused.nearswap`."""
    x = inputs[0]
    t = tl.load(coefficients)
    delta = x - base
    distance = float_of(bits_of(delta) & 0x7FFFFFFF)
    ratio = tl.div_rn(t, tl.where(distance > 1e-6, distance, 1e-6))
    capped = tl.where(ratio < 1.0, ratio, 1.0)
    share = tl.where(capped > 0.0, capped, 0.0)
    return tl.where(share == 1.0, x, changed(base, delta * share))


@triton.jit
def magmax(base, inputs, coefficients, COUNT: tl.constexpr):
    """See :func:`mergesafe.ops.fused.magmax`."""
    largest = inputs[0] - base
    for i in tl.static_range(1, COUNT):
        delta = inputs[i] - base
        larger = (bits_of(delta) & 0x7FFFFFFF) > (bits_of(largest) & 0x7FFFFFFF)
        largest = tl.where(larger, delta, largest)
    return changed(base, largest * tl.load(coefficients))


@triton.jit
def ram(base, inputs, coefficients, COUNT: tl.constexpr):
    """See :func:`mergesafe.ops.fused.ram`."""
    epsilon = tl.load(coefficients)
    total = tl.full(base.shape, 0.0, tl.float32)
    count = tl.full(base.shape, 0.0, tl.float32)
    factor = tl.full(base.shape, 0.0, tl.float32)
    for i in tl.static_range(COUNT):
        delta = inputs[i] - base
        small = float_of(bits_of(delta) & 0x7FFFFFFF) <= epsilon
        total = total + tl.where(small, 0.0, delta)
        count = count + tl.where(small, 0.0, 1.0)
        factor = factor + tl.where(small, 0.0, tl.load(coefficients + 1 + i))
    mean = tl.div_rn(total, tl.where(count > 1.0, count, 1.0))
    return changed(base, tl.where(count > 1.0, mean, total * factor))


@triton.jit
def sum_of_deltas(base, inputs, COUNT: tl.constexpr):
    total = tl.full(base.shape, 0.0, tl.float32)
    for i in tl.static_range(COUNT):
        total = total + (inputs[i] - base)
    return total


@triton.jit
def consensus(base, inputs, coefficients, COUNT: tl.constexpr):
    """See :func:`mergesafe.ops.fused.consensus`."""
    total = sum_of_deltas(base, inputs, COUNT)
    claims = tl.full(base.shape, 0.0, tl.float32)
    for i in tl.static_range(COUNT):
        delta = inputs[i] - base
        others = float_of(bits_of(total - delta) & 0x7FFFFFFF)
        least = tl.load(coefficients + 2 + i) * others
        claims = claims + tl.where(float_of(bits_of(delta) & 0x7FFFFFFF) >= least, 1.0, 0.0)
    keep = tl.where(claims >= tl.load(coefficients), 1.0, 0.0)
    return base + (keep * total) * tl.load(coefficients + 1)


@triton.jit
def emr(base, inputs, coefficients, COUNT: tl.constexpr):
    """See :func:`mergesafe.ops.fused.emr`."""
    total = sum_of_deltas(base, inputs, COUNT)
    sign = tl.where(total > 0.0, 1.0, 0.0) + tl.where(total < 0.0, -1.0, 0.0)
    largest = tl.full(base.shape, 0.0, tl.float32)
    for i in tl.static_range(COUNT):
        towards = (inputs[i] - base) * sign
        largest = tl.where((towards > largest) | (towards != towards), towards, largest)
    return base + (sign * largest) * tl.load(coefficients)


@triton.jit
def stitch(base, inputs, coefficients, COUNT: tl.constexpr):
    """See :func:`mergesafe.ops.fused.stitch`."""
    total = tl.full(base.shape, 0.0, tl.float32)
    kept = tl.full(base.shape, 0.0, tl.float32)
    for i in tl.static_range(COUNT):
        delta = inputs[i] - base
        floor = tl.load(coefficients + 1 + i)
        keep = tl.where(float_of(bits_of(delta) & 0x7FFFFFFF) >= floor, 1.0, 0.0)
        total = total + keep * delta
        kept = kept + keep
    mean = tl.div_rn(total, tl.where(kept > 1.0, kept, 1.0))
    return base + mean * tl.load(coefficients)


@triton.jit
def resta(base, inputs, coefficients):
    """See :func:`mergesafe.ops.fused.resta`."""
    return base + (inputs[0] - inputs[1]) * tl.load(coefficients)


@triton.jit
def fisher(base, inputs, coefficients, COUNT: tl.constexpr):
    """See :func:`mergesafe.ops.fused.fisher`."""
    floor = tl.load(coefficients)
    sums = tl.full(base.shape, 0.0, tl.float32)
    total = tl.full(base.shape, 0.0, tl.float32)
    for i in tl.static_range(COUNT // 2):
        diagonal = inputs[COUNT // 2 + i]
        share = tl.where(diagonal < floor, floor, diagonal) * tl.load(coefficients + 1 + i)
        sums = sums + share * inputs[i]
        total = total + share
    return tl.div_rn(sums, total)


@triton.jit(do_not_specialize_on_alignment=["coefficients"])
def fused(
    out,
    base,
    inputs,
    coefficients,
    n,
    KERNEL: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``out`` = the combination called KERNEL of ``base`` and of COUNT ``inputs``."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    b = load(base, index, inside)
    values = ()
    for i in tl.static_range(COUNT):
        values = values + (load(inputs[i], index, inside),)
    if KERNEL == "nearswap":
        merged = nearswap(b, values, coefficients)
    if KERNEL == "magmax":
        merged = magmax(b, values, coefficients, COUNT)
    if KERNEL == "ram":
        merged = ram(b, values, coefficients, COUNT)
    if KERNEL == "consensus":
        merged = consensus(b, values, coefficients, COUNT)
    if KERNEL == "emr":
        merged = emr(b, values, coefficients, COUNT)
    if KERNEL == "stitch":
        merged = stitch(b, values, coefficients, COUNT)
    if KERNEL == "resta":
        merged = resta(b, values, coefficients)
    if KERNEL == "fisher":
        merged = fisher(b, values, coefficients, COUNT)
    store(out, index, inside, merged)

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
    store(out, index, inside, merged)

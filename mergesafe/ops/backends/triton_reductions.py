"""The float64 reductions, in the order of csrc/core/reduce.h, down to one sum per block of 4096.

A program works on BLOCKS blocks at once, one row of sixteen elements of each at a time: the sixteen
lanes of a block are sixteen threads, and each adds up its 256 elements from first to last. Terms
beyond the last element are zeros and change no lane, because no lane is ever -0.

``out`` [sums, ``blocks``] is the workspace: 8 bytes per sum and block (linf: 4). STEPS is 256, or
less where no block is whole. Other arguments are those of
:mod:`mergesafe.ops.backends.triton_kernels`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mergesafe.ops.backends.triton_elements import (
    elected_positive,
    elected_sums,
    in_window,
    load,
    magnitude_bits,
    pick,
    random_mask,
    rescaled,
    signs_agree,
    vector_at,
)


@triton.jit
def lanes_of(BLOCKS: tl.constexpr):
    """Indices of the first row of the program's blocks."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    return (block << 12)[:, None] + tl.arange(0, 16)[None, :]


@triton.jit
def add_lanes(lanes, BLOCKS: tl.constexpr, MAXIMUM: tl.constexpr):
    """The sixteen lanes of every block as a tree: i with i + 8, then i with i + 4, ..."""
    for step in tl.static_range(4):
        halves = tl.reshape(lanes, (BLOCKS, 2, 8 >> step))
        low, high = tl.split(tl.permute(halves, (0, 2, 1)))
        lanes = tl.maximum(low, high) if MAXIMUM else low + high
    return tl.reshape(lanes, (BLOCKS,))


@triton.jit
def store_sums(out, sums, blocks, COUNT: tl.constexpr, BLOCKS: tl.constexpr, MAXIMUM: tl.constexpr):
    """``out[i, block]`` of the program's blocks."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    for i in tl.static_range(COUNT):
        total = add_lanes(sums[i], BLOCKS, MAXIMUM)
        tl.store(out + i * blocks + block, total, mask=block < blocks)


@triton.jit
def zeros(COUNT: tl.constexpr, BLOCKS: tl.constexpr, dtype: tl.constexpr):
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.full((BLOCKS, 16), 0, dtype),)
    return sums


@triton.jit(do_not_specialize=["n", "blocks"])
def product_sums(
    out,
    inputs,
    n,
    blocks,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    SKIP: tl.constexpr,
    TOTAL: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Float64 [TOTAL, blocks]: the products of inputs i < ROWS with inputs j >= i + SKIP."""
    sums = zeros(TOTAL, BLOCKS, tl.float64)
    first = lanes_of(BLOCKS)
    for step in tl.range(0, STEPS):
        index = first + step * 16
        inside = index < n
        values = ()
        for i in tl.static_range(COUNT):
            values = values + (load(inputs[i], index, inside).to(tl.float64),)
        added = ()
        for i in tl.static_range(ROWS):
            for j in tl.static_range(i + SKIP, COUNT):
                added = added + (sums[len(added)] + values[i] * values[j],)
        sums = added
    store_sums(out, sums, blocks, TOTAL, BLOCKS, False)


@triton.jit
def norm_term(value, total, NORM: tl.constexpr):
    if NORM == "linf":
        total = tl.maximum(total, magnitude_bits(value))
    elif NORM == "l1":
        total = total + tl.abs(value).to(tl.float64)
    else:
        wide = value.to(tl.float64)
        total = total + wide * wide
    return total


@triton.jit(do_not_specialize=["row", "offset", "n", "blocks"])
def norm_sums(
    out,
    base,
    experts,
    vectors,
    row,
    offset,
    n,
    blocks,
    COUNT: tl.constexpr,
    NORM: tl.constexpr,
    RANDOM: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """[2 * COUNT, blocks]: of every task vector and of what its mask keeps, float64 sums of
    ``|d|`` (l1) or ``d * d`` (l2), or the largest magnitude bits (linf), int32.
    """
    sums = zeros(2 * COUNT, BLOCKS, tl.int32 if NORM == "linf" else tl.float64)
    first = lanes_of(BLOCKS)
    for step in tl.range(0, STEPS):
        index = first + step * 16
        inside = index < n
        b = load(base, index, inside)
        added = ()
        for i in tl.static_range(COUNT):
            delta = load(experts[i], index, inside) - b
            vector = vector_at(vectors, row, i, COUNT)
            if (RANDOM >> i) & 1:
                keep = random_mask(index + offset, vector)
            else:
                keep = in_window(delta, vector)
            whole = norm_term(delta, sums[2 * i], NORM)
            kept = norm_term(pick(keep, delta), sums[2 * i + 1], NORM)
            added = added + (whole, kept)
        sums = added
    store_sums(out, sums, blocks, 2 * COUNT, BLOCKS, NORM == "linf")


@triton.jit(do_not_specialize=["row", "offset", "n", "blocks"])
def gradient_sums(
    out,
    grad,
    base,
    experts,
    vectors,
    weights,
    row,
    offset,
    n,
    blocks,
    COUNT: tl.constexpr,
    ELECT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    RANDOM: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Float64 [COUNT + 1, blocks]: see :meth:`mergesafe.ops.backends.base.Backend.merge_gradients`;
    the last row is written only with election and NORMALIZE.
    """
    DIVIDE: tl.constexpr = ELECT != "none" and NORMALIZE
    TOTAL: tl.constexpr = COUNT + 1 if DIVIDE else COUNT
    own = weights + row * COUNT
    sums = zeros(TOTAL, BLOCKS, tl.float64)
    first = lanes_of(BLOCKS)
    for step in tl.range(0, STEPS):
        index = first + step * 16
        inside = index < n
        share = load(grad, index, inside)
        b = load(base, index, inside)
        kept = ()
        for i in tl.static_range(COUNT):
            delta = load(experts[i], index, inside) - b
            vector = vector_at(vectors, row, i, COUNT)
            if (RANDOM >> i) & 1:
                keep = random_mask(index + offset, vector)
            else:
                keep = in_window(delta, vector)
            kept = kept + (rescaled(keep & inside, delta, vector),)
        added = ()
        if ELECT == "none":
            for i in tl.static_range(COUNT):
                added = added + (sums[i] + share.to(tl.float64) * kept[i].to(tl.float64),)
        else:
            parts = ()
            for i in tl.static_range(COUNT):
                parts = parts + (kept[i] * tl.load(own + i),)
            positive = elected_positive(parts, COUNT, ELECT)
            mean = 0.0
            if NORMALIZE:
                total, divisor = elected_sums(parts, positive, own, COUNT)
                by = tl.where(divisor != 0.0, divisor, 1.0)
                mean = tl.div_rn(total, by)
                last = sums[COUNT] + share.to(tl.float64) * mean.to(tl.float64)
                share = tl.div_rn(share, by)
                mean = pick(divisor != 0.0, mean)
            for i in tl.static_range(COUNT):
                term = kept[i] - mean if NORMALIZE else kept[i]
                term = pick(signs_agree(parts[i], positive), term)
                added = added + (sums[i] + share.to(tl.float64) * term.to(tl.float64),)
            if NORMALIZE:
                added = added + (last,)
        sums = added
    store_sums(out, sums, blocks, TOTAL, BLOCKS, False)

"""The element-wise kernels and the histograms: one program per BLOCK elements.

``inputs``, ``experts``: tuples of COUNT pointers, whose element types say how to load. ``row``: the
job's in ``weights`` [jobs, COUNT], ``scales`` [jobs] and ``vectors`` [jobs, COUNT, 6], the masks.
``RANDOM``: bit i is set where expert i has a random mask.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mergesafe.ops.backends.triton_elements import (
    bits_of,
    changed,
    differs_from_one,
    elected_positive,
    elected_sums,
    in_window,
    load,
    magnitude_bits,
    random_masks,
    store,
    sum_of_weights,
    vector_at,
    weighted,
)


@triton.jit(do_not_specialize=["row"], do_not_specialize_on_alignment=["weights"])
def weighted_sum(out, inputs, weights, row, n, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """``out = sum_i weights[row, i] * inputs[i]``; where weights add up to 1 and all inputs are
    one number, that number.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    own = weights + row * COUNT
    first = load(inputs[0], index, inside)
    total = first * tl.load(own)
    if COUNT > 1:
        differ = differs_from_one(own, COUNT)
        for i in tl.static_range(1, COUNT):
            x = load(inputs[i], index, inside)
            total = total + x * tl.load(own + i)
            differ = differ | (bits_of(x) ^ bits_of(first))
        total = tl.where(differ == 0, first, total)
    store(out, index, inside, total)


@triton.jit(
    do_not_specialize=["row", "group"],
    do_not_specialize_on_alignment=["weights", "scales"],
)
def merge(
    out,
    base,
    experts,
    vectors,
    weights,
    scales,
    row,
    group,
    shift,
    n,
    COUNT: tl.constexpr,
    ELECT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    RANDOM: tl.constexpr,
    SMALLEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``out = base + scale * (sum of the kept task vectors) / divisor``.

    The first element is number ``64 * group + shift`` of its tensor. Where masks are random,
    programs start at groups of 64, so the first does not begin with the first element.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK
    index = start - shift + tl.arange(0, BLOCK)
    inside = index < n
    if RANDOM != 0:
        inside = inside & (index >= 0)
    own = weights + row * COUNT
    b = load(base, index, inside)
    parts = ()
    for i in tl.static_range(COUNT):
        vector = vector_at(vectors, row, i, COUNT)
        delta = load(experts[i], index, inside) - b
        if (RANDOM >> i) & 1:
            keep = random_masks(group + (start >> 6), vector, BLOCK)
        else:
            keep = in_window(delta, vector)
        parts = parts + (weighted(keep, delta, vector, tl.load(own + i)),)
    if ELECT == "none":
        total = 0.0
        for i in tl.static_range(COUNT):
            total = total + parts[i]
        divisor = sum_of_weights(own, COUNT, SMALLEST)
    else:
        positive = elected_positive(parts, COUNT, ELECT)
        total, divisor = elected_sums(parts, positive, own, COUNT)
        divisor = tl.where(divisor != 0.0, divisor, 1.0)
    if NORMALIZE:
        total = tl.div_rn(total, divisor)
    store(out, index, inside, changed(b, total * tl.load(scales + row)))


@triton.jit(do_not_specialize=["prefix"])
def magnitude_counts(counts, base, expert, prefix, n, LOW: tl.constexpr, BLOCK: tl.constexpr):
    """Counts int64 [65536] of the high 16 magnitude bits, or with LOW of the low 15 of those
    magnitudes whose high 16 are ``prefix``.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    bits = magnitude_bits(load(expert, index, inside) - load(base, index, inside))
    bins = bits >> 15
    if LOW:
        inside = inside & (bins == prefix)
        bins = bits & 0x7FFF
    one = tl.full((BLOCK,), 1, tl.int64)
    tl.atomic_add(counts + bins, one, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=["query"])
def digit_counts(
    counts,
    base,
    expert,
    prefixes,
    query,
    n,
    SHIFT: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Adds to ``counts[query]``, int64 [BINS], how often each digit occurs among the magnitudes
    that begin with ``prefixes[query]``; a digit is log2(BINS) bits above the lowest SHIFT.

    A program counts STEPS blocks before it adds to what all programs share.
    """
    first = tl.program_id(0).to(tl.int64) * (BLOCK * STEPS)
    prefix = tl.load(prefixes + query)
    found = tl.full((BINS,), 0, tl.int32)
    for step in tl.range(0, STEPS):
        index = first + step * BLOCK + tl.arange(0, BLOCK)
        inside = index < n
        bits = magnitude_bits(load(expert, index, inside) - load(base, index, inside))
        digits = bits >> SHIFT
        inside = inside & (digits // BINS == prefix)
        found = found + tl.histogram(digits % BINS, BINS, mask=inside)
    bins = tl.arange(0, BINS)
    tl.atomic_add(counts + query * BINS + bins, found.to(tl.int64), mask=found > 0, sem="relaxed")

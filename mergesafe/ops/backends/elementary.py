"""The arithmetic of one element and of reductions, in plain torch, in the order of csrc/core."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import Elect, MergeJob, Norm
from mergesafe.ops.numbers import float32

#: dtype -> (integers of its width, the one NaN that is ever written).
CANONICAL_NAN = {
    torch.bfloat16: (torch.int16, 0x7FC0),
    torch.float16: (torch.int16, 0x7E00),
    torch.float32: (torch.int32, 0x7FC00000),
    torch.float64: (torch.int64, 0x7FF8000000000000),
}
#: Every NaN delta has this magnitude, just above infinity.
NAN_MAGNITUDE = 0x7F800001
#: The histogram's two levels: the high 16 of 31 magnitude bits, then the low 15.
HISTOGRAM_BINS = 1 << 16
LOW_BITS = 15
#: Reductions: element e of a block of 4096 goes to lane e % 16.
BLOCK = 4096
LANES = 16
#: Gradients: so many consecutive terms are added at a time, until one is left.
FAN = 64

F64 = torch.float64
_WORD = 0xFFFFFFFF


def arithmetic(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """What to compute in: float32, or float64 if any tensor is."""
    return F64 if any(x.dtype is F64 for x in tensors) else torch.float32


def number(value: float, real: torch.dtype) -> float:
    """``value`` as a kernel that computes in ``real`` sees it."""
    return value if real is F64 else float32(value)


def stored(values: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """``values``, in ``out`` where given."""
    return values if out is None else out.copy_(values)


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float32 values rounded to nearest even, every NaN made the canonical one."""
    out = values.to(dtype)
    integers, nan = CANONICAL_NAN[dtype]
    return out.view(integers).masked_fill(torch.isnan(out), nan).view(dtype)


def pick(condition: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values`` where the condition holds, else +0."""
    return torch.where(condition, values, torch.zeros_like(values))


def all_same(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Where all tensors hold the same bits."""
    patterns = [x.view(CANONICAL_NAN[x.dtype][0]) for x in values]
    same = torch.ones_like(patterns[0], dtype=torch.bool)
    for other in patterns[1:]:
        same = same & (other == patterns[0])
    return same


def magnitude_bits(delta: torch.Tensor) -> torch.Tensor:
    """The bit patterns of |delta|, which order like the values."""
    return (delta.view(torch.int32) & 0x7FFFFFFF).clamp(max=NAN_MAGNITUDE)


def keep_mask(vector: Sparsify, delta: torch.Tensor, offset: int) -> torch.Tensor:
    """Which elements of ``delta`` survive."""
    if vector.random:
        words = random_words(offset, delta.numel(), vector.key, delta.device)
        return words < vector.threshold
    bits = magnitude_bits(delta)
    return (bits >= vector.lo) & (bits <= vector.hi)


def sum_in_order(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum in order, started at +0."""
    total = torch.zeros_like(parts[0])
    for part in parts:
        total = total + part
    return total


def delta_of(x: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """The float32 task vector that magnitudes and masks are about."""
    real = arithmetic([x, base])
    return (x.to(real) - base.to(real)).float()


def sparsified(job: MergeJob, real: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Which elements of every task vector survive, and the rescaled task vector."""
    b = job.base.to(real)
    found = []
    for x, vector in zip(job.experts, job.vectors, strict=True):
        delta = x.to(real) - b
        mask = keep_mask(vector, delta.float(), job.offset)
        found.append((mask, delta * number(vector.rescale, real)))
    return found


def agreement(parts: Sequence[torch.Tensor], elect: Elect) -> list[torch.Tensor]:
    """Which elements of each part have the elected sign.

    A vote of zero elects +; a NaN vote elects -; an exact zero and a NaN never agree.
    """
    votes = [(d > 0).to(d) - (d < 0).to(d) for d in parts] if elect == "count" else parts
    positive = sum_in_order(votes) >= 0
    return [torch.where(positive, d > 0, d < 0) for d in parts]


def elected(
    parts: Sequence[torch.Tensor], weights: Sequence[float], agrees: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the parts, and of their weights, that agree with the elected sign."""
    total = sum_in_order([pick(a, d) for a, d in zip(agrees, parts, strict=True)])
    divisor = sum_in_order(
        [
            pick(a, torch.full_like(d, number(w, d.dtype)))
            for a, d, w in zip(agrees, parts, weights, strict=True)
        ]
    )
    return total, divisor


def block_sums(values: torch.Tensor) -> torch.Tensor:
    """Float64 sums of blocks of 4096 values: sixteen lanes, added as a tree."""
    blocks = -(-values.numel() // BLOCK)
    padded = torch.zeros(blocks * BLOCK, dtype=torch.float64, device=values.device)
    padded[: values.numel()] = values
    rows = padded.view(blocks, BLOCK // LANES, LANES)
    lanes = torch.zeros(blocks, LANES, dtype=torch.float64, device=values.device)
    for row in range(BLOCK // LANES):
        lanes = lanes + rows[:, row]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def ordered_sum(values: torch.Tensor, total: float) -> float:
    """``total`` plus float64 values: block sums in order."""
    for term in block_sums(values).tolist():
        total = total + term
    return total


def tree_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of float64 values: block sums, then 64 consecutive terms at a time until one is left.

    A zero that fills up a group of 64 changes nothing: no block sum is -0.
    """
    terms = block_sums(values)
    while terms.numel() > 1:
        groups = -(-terms.numel() // FAN)
        padded = torch.nn.functional.pad(terms, (0, groups * FAN - terms.numel()))
        columns = padded.view(groups, FAN).unbind(1)
        terms = columns[0]
        for column in columns[1:]:
            terms = terms + column
    return terms[0] if terms.numel() else values.new_zeros(())


def continued_norm(norm: Norm, values: torch.Tensor, total: float) -> float:
    """``total`` continued over the values; a NaN stays."""
    if norm == "l1":
        return ordered_sum(values.double().abs(), total)
    if norm == "l2":
        return ordered_sum(values.double() * values.double(), total)
    if values.numel() == 0 or total != total:
        return total
    largest = float(values.abs().max())
    return total if total >= largest else largest


def random_words(first: int, n: int, key: int, device: torch.device) -> torch.Tensor:
    """The Philox words, as int64, of elements [first, first + n).

    Element e takes word (e // 16) % 4 of counter 16 * (e // 64) + e % 16.
    """
    e = torch.arange(first, first + n, dtype=torch.int64, device=device)
    counter = 16 * (e // 64) + e % 16
    zero = torch.zeros_like(counter)
    words = philox4x32((counter & _WORD, counter >> 32, zero, zero), key & _WORD, key >> 32)
    return torch.stack(words).gather(0, ((e // 16) % 4).unsqueeze(0)).squeeze(0)


def philox4x32(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], k0: int, k1: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Philox4x32-10 on 32-bit words held in int64 (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = counter
    for _ in range(10):
        high0, low0 = multiplied(0xD2511F53, c0)
        high1, low1 = multiplied(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def multiplied(factor: int, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of ``factor * words``; the products of 16-bit halves fit in int64."""
    low = (words & 0xFFFF) * factor
    high = (words >> 16) * factor + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)

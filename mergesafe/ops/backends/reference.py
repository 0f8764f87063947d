"""The specification: every primitive in plain torch, in the order of operations of csrc/core.

Slow and memory-hungry on purpose; the other backends must give the same bits. Float32 arithmetic
one operation at a time (so nothing can be contracted), experts ascending, one rounding at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import Elect, Norm
from mergesafe.ops.numbers import divisor_of, float32

#: dtype -> (integers of its width, the one NaN that is ever written).
CANONICAL_NAN = {
    torch.bfloat16: (torch.int16, 0x7FC0),
    torch.float16: (torch.int16, 0x7E00),
    torch.float32: (torch.int32, 0x7FC00000),
}
#: Every NaN delta has this magnitude, just above infinity.
NAN_MAGNITUDE = 0x7F800001
#: The histogram's two levels: the high 16 of 31 magnitude bits, then the low 15.
HISTOGRAM_BINS = 1 << 16
LOW_BITS = 15
#: Reductions: element e of a block of 4096 goes to lane e % 16.
BLOCK = 4096
LANES = 16

_WORD = 0xFFFFFFFF


class ReferenceBackend:
    """See :class:`mergesafe.ops.backends.base.Backend`."""

    name = "reference"

    def weighted_sum(
        self, tensors: Sequence[torch.Tensor], weights: Sequence[float], out_dtype: torch.dtype
    ) -> torch.Tensor:
        total = tensors[0].float() * float32(weights[0])
        for x, weight in zip(tensors[1:], weights[1:], strict=True):
            total = total + x.float() * float32(weight)
        return rounded(total, out_dtype)

    def merge_task_vectors(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        vectors: Sequence[Sparsify],
        weights: Sequence[float],
        elect: Elect,
        normalize: bool,
        scale: float,
        offset: int,
        out_dtype: torch.dtype,
    ) -> torch.Tensor:
        b = base.float()
        weighted = []
        for x, vector, weight in zip(experts, vectors, weights, strict=True):
            delta = x.float() - b
            d = (delta * float32(vector.rescale)) * float32(weight)
            weighted.append(pick(keep_mask(vector, delta, offset), d))
        if elect == "none":
            total = sum_in_order(weighted)
            divisor = torch.full_like(b, divisor_of(weights, normalize))
        else:
            total, divisor = elected(weighted, weights, elect)
            divisor = divisor.where((divisor != 0) & normalize, torch.ones_like(b))
        # a tensor divisor, because torch multiplies by the reciprocal of a number on CUDA
        return rounded(b + (total / divisor) * float32(scale), out_dtype)

    def kth_magnitude(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        ranks: Sequence[tuple[int, int]],
    ) -> list[int]:
        found = []
        for expert, k in ranks:
            magnitudes = magnitude_bits(experts[expert].float() - base.float())
            found.append(int(magnitudes.sort(descending=True).values[k - 1]))
        return found

    def magnitude_histogram(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        prefixes: Sequence[int] | None,
    ) -> torch.Tensor:
        rows = []
        for i, x in enumerate(experts):
            bits = magnitude_bits(x.float() - base.float())
            high, low = bits >> LOW_BITS, bits & ((1 << LOW_BITS) - 1)
            bins = high if prefixes is None else low[high == prefixes[i]]
            rows.append(torch.bincount(bins, minlength=HISTOGRAM_BINS))
        return torch.stack(rows)

    def gram(self, tensors: Sequence[torch.Tensor], totals: Sequence[float]) -> list[float]:
        n = len(tensors)
        result = list(totals)
        for i in range(n):
            for j in range(i, n):
                products = tensors[i].double() * tensors[j].double()
                result[i * n + j] = ordered_sum(products, result[i * n + j])
        return result

    def delta_norms(
        self,
        base: torch.Tensor,
        experts: Sequence[torch.Tensor],
        sparsify: Sequence[Sparsify],
        norm: Norm,
        totals: Sequence[float],
        offset: int,
    ) -> list[float]:
        result = list(totals)
        for i, (x, vector) in enumerate(zip(experts, sparsify, strict=True)):
            delta = x.float() - base.float()
            kept = pick(keep_mask(vector, delta, offset), delta)
            result[2 * i] = continued_norm(norm, delta, result[2 * i])
            result[2 * i + 1] = continued_norm(norm, kept, result[2 * i + 1])
        return result


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float32 values rounded to nearest even, every NaN made the canonical one."""
    out = values.to(dtype)
    integers, nan = CANONICAL_NAN[dtype]
    return out.view(integers).masked_fill(torch.isnan(out), nan).view(dtype)


def pick(condition: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values`` where the condition holds, else +0."""
    return torch.where(condition, values, torch.zeros_like(values))


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


def elected(
    parts: Sequence[torch.Tensor], weights: Sequence[float], elect: Elect
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the parts, and of their weights, that agree with the elected sign.

    A vote of zero elects +; a NaN vote elects -; an exact zero and a NaN never agree.
    """
    votes = [(d > 0).float() - (d < 0).float() for d in parts] if elect == "count" else parts
    positive = sum_in_order(votes) >= 0
    agrees = [torch.where(positive, d > 0, d < 0) for d in parts]
    total = sum_in_order([pick(a, d) for a, d in zip(agrees, parts, strict=True)])
    divisor = sum_in_order(
        [
            pick(a, torch.full_like(d, float32(w)))
            for a, d, w in zip(agrees, parts, weights, strict=True)
        ]
    )
    return total, divisor


def ordered_sum(values: torch.Tensor, total: float) -> float:
    """``total`` plus float64 values: lanes within a block, lanes as a tree, blocks in order."""
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
    for term in lanes[:, 0].tolist():
        total = total + term
    return total


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

"""Launching Triton kernels, and bringing them what is small enough to be a table."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import MergeJob
from mergesafe.ops.numbers import float32

_LARGEST = 0x7FFFFFFF


def launch(
    kernel: Any, elements: int, share: int, out: torch.Tensor, *args: Any, **meta: Any
) -> None:
    """Runs the kernel on ``out``'s device, one program per ``share`` elements, uncontracted."""
    if elements == 0:
        return
    with device_of(out):
        kernel[(-(-elements // share),)](out, *args, **meta, enable_fp_fusion=False)


def device_of(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever tensors it is given."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def float32_rows(rows: Sequence[Sequence[float]], device: torch.device) -> torch.Tensor:
    """A small tensor on the device; nothing waits for what runs there."""
    values = torch.tensor([[float32(x) for x in row] for row in rows], dtype=torch.float32)
    return values.to(device, non_blocking=True)


def masks(jobs: Sequence[MergeJob], device: torch.device) -> torch.Tensor:
    """[jobs, experts, 6] on the device, int32: see :mod:`mergesafe.ops.backends.triton_elements`.

    Not arguments of the kernels, because Triton compiles anew for integers that are 1 or multiples
    of 16.
    """
    words = [[mask_words(v) for v in job.vectors] for job in jobs]
    return torch.tensor(words, dtype=torch.int32).to(device, non_blocking=True)


def mask_words(v: Sparsify) -> tuple[int, ...]:
    rescale = struct.unpack("=i", struct.pack("=f", float32(v.rescale)))[0]
    lo, hi = min(v.lo, _LARGEST), min(v.hi, _LARGEST)
    return lo, hi, signed(v.key), signed(v.key >> 32), signed(v.threshold), rescale


def signed(word: int) -> int:
    """The int32 with the low 32 bits of ``word``."""
    return ((word + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def random_bits(vectors: Sequence[Sparsify]) -> int:
    """Bit i is set where vector i has a random mask."""
    return sum(1 << i for i, vector in enumerate(vectors) if vector.random)

"""A LoRA adapter folded into a matrix, to the bits of a merge."""

from __future__ import annotations

import torch

from mergesafe import native
from mergesafe.errors import ArgumentError
from mergesafe.native import Input
from mergesafe.ops.backends.native import DTYPES


def add_low_rank(
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``W + scale * B @ A`` in float32 (LoRA: Hu et al., https://arxiv.org/abs/2106.09685).

    A merge, an evaluation and tuning fold adapters in by this one kernel: a product of torch adds
    in another order, and so gives other bits.

    Args:
        weight: [rows, columns], float32, float16 or bfloat16, contiguous, on the CPU.
        a: [rank, columns], float32, contiguous, on the CPU.
        b: [rows, rank], the same.
        out: contiguous float32 like ``weight`` that takes the result.

    Raises:
        ArgumentError: shapes, dtypes or layouts are others.
    """
    if out is None:
        out = torch.empty(weight.shape, dtype=torch.float32)
    rank = len(a)
    shapes = [tuple(each.shape) for each in (weight, a, b, out)]
    rows, columns = weight.shape if weight.dim() == 2 else (-1, -1)
    if shapes[1:] != [(rank, columns), (rows, rank), (rows, columns)]:
        raise ArgumentError(
            f"W, A, B and the result have the shapes {', '.join(map(str, shapes))}; expected "
            "[rows, columns], [rank, columns], [rows, rank] and [rows, columns]"
        )
    tensors = (weight, a, b, out)
    if weight.dtype not in DTYPES or any(each.dtype != torch.float32 for each in tensors[1:]):
        raise ArgumentError(
            f"W, A, B and the result have the dtypes {', '.join(str(x.dtype) for x in tensors)}; "
            "expected W in float32, float16 or bfloat16, and the others in float32"
        )
    if any(each.device.type != "cpu" or not each.is_contiguous() for each in tensors):
        raise ArgumentError("W, A, B and the result must be contiguous and lie on the CPU")
    code = DTYPES[weight.dtype]
    native.add_low_rank(
        Input(weight.data_ptr(), code, code), (a.data_ptr(), a.numel()), (b.data_ptr(), b.numel()),
        rank, columns, scale, 0, weight.numel(), out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out

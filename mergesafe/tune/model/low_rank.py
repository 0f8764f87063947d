"""Sums of LoRA experts of one base, multiplied without making the merged weight.

Where a tensor's task vectors are ``s_i B_i A_i`` of one stored W and the merge is linear in them,
``W_merged = c_0 W + sum_i c_i s_i B_i A_i``, so that a layer's output is

    x W_merged^T = c_0 x W^T + ((x A^T) * c) (s B)^T

with the factors of all experts stacked and each column times its expert's c. The gradient of c
comes out of tensors of the rank's size: no gradient of the weight is multiplied out, and W stays as
it is. LoRA: Hu et al., https://arxiv.org/abs/2106.09685.

Where a weight is made all the same, for a model that answers, the CPU makes it as a merge does, to
the last bit: what is measured is what will be written. A GPU multiplies the stacked factors, since
the kernel of a merge that folds adapters in runs on the CPU; weights differ by float32 rounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch.nn import functional

from mergesafe.chat.weights import lora_factors
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.ops.low_rank import add_low_rank
from mergesafe.outline.sources import Operand
from mergesafe.tune.model.tensor_function import TensorFunction

Tensor = torch.Tensor
#: Elements of a weight that are merged at a time.
_BLOCK: Final = 1 << 20


class LowRank:
    """The stacked factors of a tensor's experts: A [ranks, in] and B [out, ranks].

    ``function`` gives the tensor's c_0 and c for a row of coefficients.
    """

    def __init__(self, function: TensorFunction, dtype: torch.dtype, device: torch.device) -> None:
        self._function = function
        downs, ups, scales = [], [], []
        owners: list[int] = []
        #: The experts' ranks, and what their products are multiplied by; None without an adapter.
        self._parts: list[tuple[slice, float] | None] = []
        with Reader() as reader:
            for number, source in enumerate(_experts(function)):
                if (pair := source.view.lora) is not None:
                    a, b = lora_factors(pair, reader)
                    downs.append(a)
                    ups.append(b)
                    self._parts.append((slice(len(owners), len(owners) + pair.rank), pair.scale))
                    owners += [number] * pair.rank
                    scales += [pair.scale] * pair.rank
                else:
                    self._parts.append(None)
        self._down, self._up = torch.cat(downs).to(device), torch.cat(ups, dim=1).to(device)
        self._owners = torch.tensor(owners, device=device)
        self._scales = torch.tensor(scales, device=device)
        self._narrow = self._down.to(dtype), (self._up * self._scales).to(dtype)

    def linear(self, x: Tensor, product: Tensor, row: Tensor) -> Tensor:
        """``x W_merged^T`` from ``product = x W^T``."""
        base, each = self._function.linear_form(row)
        down, up = self._narrow
        inner = functional.linear(x, down).float() * self._columns(each)
        return product * base.to(product.dtype) + functional.linear(inner.to(x.dtype), up)

    def merged(self, weight: Tensor, row: Tensor, dtype: torch.dtype) -> Tensor:
        """``W_merged`` from W, in ``dtype``."""
        if weight.device.type != "cpu":
            base, each = self._function.linear_form(row)
            up = self._up * self._scales * self._columns(each)
            return (weight.float() * base.float() + up @ self._down).to(dtype)
        made = torch.empty(weight.shape, dtype=dtype)
        rows = max(1, _BLOCK // max(1, weight.shape[1]))  # the experts never lie in memory whole
        for begin in range(0, len(weight), rows):
            of = slice(begin, begin + rows)
            experts = [self._expert(weight, number, of) for number in range(len(self._parts))]
            inputs = [weight[of]] * self._function.first + experts
            made[of] = self._function.make(inputs, row, dtype)
        return made

    def expert(self, weight: Tensor, number: int) -> Tensor:
        """One expert's weight in float32."""
        if weight.device.type != "cpu":
            mine = self._scales * (self._owners == number)
            return weight.float() + (self._up * mine) @ self._down
        return self._expert(weight, number, slice(len(weight))).float()

    def _expert(self, weight: Tensor, number: int, rows: slice) -> Tensor:
        """Rows of an expert as a merge takes them: in float32 with an adapter, else as stored."""
        if (part := self._parts[number]) is None:
            return weight[rows]
        ranks, scale = part
        b = self._up[rows, ranks].contiguous()
        return add_low_rank(weight[rows], self._down[ranks], b, scale)

    def _columns(self, each: Tensor) -> Tensor:
        return each.float().to(self._owners.device)[self._owners]


def is_low_rank(function: TensorFunction) -> bool:
    """Whether the merged tensor is a weighted sum of one stored matrix and LoRA deltas of it.

    Not where the recipe rounds the experts to a narrower dtype first, or drops elements of them.
    """
    task = function.task
    if len(task.context.shape) != 2 or task.cast not in (None, "F32"):
        return False
    if any(source.view.plain != task.sources[0].view.plain for source in task.sources):
        return False
    if task.context.base and task.sources[0].view.lora:
        return False
    return any(source.view.lora for source in task.sources) and function.is_linear


def without_adapters(task: TensorTask) -> TensorTask:
    """The stored matrix alone as a task's input."""
    first = task.sources[0]
    return replace(task, sources=(replace(first, view=first.view.plain),))


def _experts(function: TensorFunction) -> tuple[Operand, ...]:
    """The sources that the coefficients belong to."""
    return function.task.sources[function.first :]

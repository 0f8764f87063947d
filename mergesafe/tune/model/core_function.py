"""One tensor of a merge of LoRA adapters as a function of its coefficients, and its gradient.

With ``W = W_0 + U M V`` only M [p, q] depends on the coefficients: the small matrices of the
adapters are found once and kept, a weight costs one product, and a gradient ``G = dL/dW`` becomes
``dL/dM = U^T G V^T``, which the inner method's own function reduces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.methods.driver import dry_run
from mergesafe.methods.spec import LowRank
from mergesafe.ops.factors import core_of, pairs_of
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.model.tensor_function import TensorFunction

Tensor: TypeAlias = torch.Tensor
Tensors: TypeAlias = Sequence[torch.Tensor]


class CoreFunction(TensorFunction):
    """See :class:`TensorFunction`; ``inputs`` are the base and the factors of the adapters."""

    def __init__(self, task: TensorTask, space: CoefficientSpace) -> None:
        super().__init__(task, space)
        how = dry_run(task.method, task.context, task.settings).combination
        assert isinstance(how, LowRank)  # of every method that takes adapters
        self._how = how
        #: U and V in float32, then zeros and the small matrix of each adapter.
        self._core: tuple[Tensor, Tensor, list[Tensor]] | None = None
        self._inner: TensorFunction | None = None

    def make(
        self, inputs: Tensors, row: Tensor, dtype: torch.dtype, chosen: Tensor | None = None
    ) -> Tensor:
        left, right, small = self._found(inputs)
        assert self._inner is not None  # found with the matrices
        merged = self._inner.make(small, row, torch.float32)
        base = inputs[0] if chosen is None else inputs[0][chosen]
        left = left if chosen is None else left[chosen]
        with self._calling(base.device):
            return torch.addmm(base.float(), left @ merged, right).to(dtype)

    def reduce(
        self, inputs: Tensors, row: Tensor, gradient: Tensor, chosen: Tensor | None = None
    ) -> Tensor:
        left, right, small = self._found(inputs)
        assert self._inner is not None  # found with the matrices
        left = left if chosen is None else left[chosen]
        with self._calling(gradient.device):
            of_small = left.T @ (gradient.float() @ right.T)
        return self._inner.reduce(small, row, of_small)

    def expert(self, inputs: Tensors, number: int) -> Tensor:
        context = self.task.context
        pair, told = pairs_of(context, inputs[1:])[number], context.adapters[number]
        if pair is None or told is None:
            return inputs[0]
        return torch.addmm(inputs[0].float(), pair.b.float(), pair.a.float(), alpha=told.scale)

    def _found(self, inputs: Tensors) -> tuple[Tensor, Tensor, list[Tensor]]:
        if self._core is None:
            context = self.task.context
            with self._calling(inputs[0].device), torch.no_grad():
                core = core_of(self._how, context, [x.float() for x in inputs[1:]])
            matrices = [torch.zeros_like(core.small[0]), *core.small]
            shape = tuple(matrices[0].shape)
            small = replace(context, shape=shape, numel=matrices[0].numel(), adapters=())
            # Its inputs are the small matrices, which no view reads.
            task = replace(
                self.task, context=small, method=self._how.inner, beside=0,
                sources=self.task.sources[:1] * len(matrices),
            )  # fmt: skip
            self._inner = TensorFunction(task, self.space)
            self._core = core.left.float(), core.right.float(), matrices
        return self._core

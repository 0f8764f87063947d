"""A merged weight that is made when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.tune.model.inputs import Inputs
from mergesafe.tune.model.low_rank import LowRank, without_adapters
from mergesafe.tune.model.tensor_function import TensorFunction


class MergedWeight:
    """One tensor of the merged model at the coefficients that are set just now.

    Attributes:
        combination: how it is made; None where no coefficient changes it, so that it is its first
            input.
        low_rank: the factors of LoRA experts, where the inputs are the stored matrix alone.
        inputs: set before any use.
        used: called with the tensor's name whenever it is made.
        numbers: the coefficients, on the CPU.
        row: the same beside the inputs, with a graph while gradients are recorded.
        kept: the merged tensor, where it was made to stay.
        choice: the expert to take in place of the merge.
    """

    inputs: Inputs

    def __init__(
        self,
        task: TensorTask,
        combination: TensorFunction | None,
        dtype: torch.dtype,
        low_rank: LowRank | None = None,
    ) -> None:
        self.task = task if low_rank is None else without_adapters(task)
        self.combination, self.dtype, self.low_rank = combination, dtype, low_rank
        self.numbers: torch.Tensor | None = None
        self.row: torch.Tensor | None = None
        self.kept: torch.Tensor | None = None
        self.choice: int | None = None
        self.used: Callable[[str], None] = lambda name: None

    def make(
        self, dtype: torch.dtype | None = None, chosen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The tensor, or the rows ``chosen`` of it, without a graph.

        Where no coefficients are set, the first input or that of :attr:`choice`.
        """
        dtype = dtype or self.dtype
        if self.kept is not None:
            return (self.kept if chosen is None else self.kept[chosen]).to(dtype)
        self.used(self.task.name)
        with torch.no_grad(), self.inputs.open(self.task) as inputs:
            if self.combination is None or self.numbers is None:
                one = self._chosen(inputs)
                # The input's memory is used again once the block ends.
                return (one if chosen is None else one[chosen]).to(dtype, copy=self.inputs.reused)
            if self.low_rank is not None:
                merged = self.low_rank.merged(inputs[0], self.numbers, dtype)
                return merged if chosen is None else merged[chosen]
            return self.combination.make(inputs, self.numbers, dtype, chosen)

    def differentiable(self) -> torch.Tensor:
        """The tensor in float32, with a graph to the coefficients where they have one."""
        made: torch.Tensor
        made = _Small.apply(self.row, self)  # type: ignore[no-untyped-call]
        return made

    def _chosen(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.choice is None or self.combination is None:
            return inputs[0]
        if self.low_rank is not None:
            return self.low_rank.expert(inputs[0], self.choice)
        return self.combination.expert(inputs, self.choice)

    def stored(self) -> torch.Tensor:
        """Of LoRA experts, the matrix that they share."""
        self.used(self.task.name)
        with torch.no_grad(), self.inputs.open(self.task) as inputs:
            return inputs[0].to(self.dtype, copy=self.inputs.reused)

    @contextmanager
    def again(
        self, dtype: torch.dtype | None = None, chosen: torch.Tensor | None = None
    ) -> Iterator[Made]:
        """In backward: the tensor once more, and how a gradient of it is reduced."""
        how, row, numbers = self.combination, self.row, self.numbers
        assert how is not None  # only what has coefficients is reduced
        assert row is not None
        assert numbers is not None
        self.used(self.task.name)
        with self.inputs.open(self.task) as inputs:
            yield Made(
                lambda: how.make(inputs, numbers, dtype or self.dtype, chosen),
                lambda gradient: how.reduce(inputs, row, gradient, chosen),
            )


@dataclass(frozen=True)
class Made:
    """``value()`` makes a weight, ``reduce(dL/dW)`` gives the gradient of its coefficients."""

    value: Callable[[], torch.Tensor]
    reduce: Callable[[torch.Tensor], torch.Tensor]


class _Small(torch.autograd.Function):
    """A weight that is made once in a pass, and whose inputs stay in memory."""

    @staticmethod
    def forward(ctx: Any, row: torch.Tensor | None, weight: MergedWeight) -> torch.Tensor:
        ctx.weight = weight
        return weight.make(torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        with ctx.weight.again(torch.float32) as made:
            return made.reduce(gradient), None

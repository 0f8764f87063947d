"""A merged weight that is made when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

import torch

from mergesafe.engine.plan import TensorTask
from mergesafe.tune.combine import Combination
from mergesafe.tune.inputs import Inputs
from mergesafe.tune.low_rank import LowRank, without_adapters


class MergedWeight:
    """One tensor of the merged model at the coefficients that are set just now.

    ``combination`` is None for a tensor that no coefficient changes: its value is the first
    input's. ``row``: the coefficients, with a graph while gradients are recorded. ``kept``: the
    merged tensor, where it was made to stay. ``choice``: the expert to take in place of the
    merge.
    ``low_rank``: the
    factors of LoRA experts, where the inputs are the stored matrix alone. ``inputs`` are set before
    any use; ``used`` is called with its name whenever it is made.
    """

    inputs: Inputs

    def __init__(
        self,
        task: TensorTask,
        combination: Combination | None,
        dtype: torch.dtype,
        low_rank: LowRank | None = None,
    ) -> None:
        self.task = task if low_rank is None else without_adapters(task)
        self.combination, self.dtype, self.low_rank = combination, dtype, low_rank
        self.row: torch.Tensor | None = None
        self.kept: torch.Tensor | None = None
        self.choice: int | None = None
        self.used: Callable[[str], None] = lambda name: None

    def make(
        self,
        row: torch.Tensor | None,
        dtype: torch.dtype | None = None,
        chosen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The tensor, or the rows ``chosen`` of it, at the coefficients ``row``; no graph.

        Without ``row``, the first input or that of :attr:`choice`.
        """
        dtype = dtype or self.dtype
        if self.kept is not None:
            return (self.kept if chosen is None else self.kept[chosen]).to(dtype)
        self.used(self.task.name)
        with torch.no_grad(), self.inputs.open(self.task) as inputs:
            if self.combination is None or row is None:
                one = self._chosen(inputs)
                # The input's memory is used again once the block ends.
                return (one if chosen is None else one[chosen]).to(dtype, copy=self.inputs.reused)
            if self.low_rank is not None:
                merged = self.low_rank.dense(inputs[0], row).to(dtype)
                return merged if chosen is None else merged[chosen]
            return self.combination.make(inputs, row, dtype, chosen)

    def differentiable(self) -> torch.Tensor:
        """The tensor in float32, with a graph to the coefficients that keeps the inputs alive."""
        with self.inputs.open(self.task) as inputs:
            if self.combination is None or self.row is None:
                return self._chosen(inputs).float()
            return self.combination.make(inputs, self.row, torch.float32)

    def _chosen(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.choice is None or self.combination is None:
            return inputs[0]
        if self.low_rank is not None:
            return self.low_rank.expert(inputs[0], self.choice)
        return inputs[self.choice + self.combination.first]

    def made_again(
        self,
        row: torch.Tensor,
        dtype: torch.dtype | None = None,
        chosen: torch.Tensor | None = None,
    ) -> Made:
        """The tensor with a way to reduce a gradient of it; for use as a context manager."""
        return Made(self, row, dtype or self.dtype, chosen)


class Made:
    """A merged weight in a backward pass: ``with weight.made_again(row) as made: ...``."""

    value: torch.Tensor

    def __init__(
        self, weight: MergedWeight, row: torch.Tensor, dtype: torch.dtype,
        chosen: torch.Tensor | None,
    ) -> None:  # fmt: skip
        self._weight, self._dtype, self._chosen = weight, dtype, chosen
        self._leaf = row.detach().requires_grad_()

    def __enter__(self) -> Made:
        self._weight.used(self._weight.task.name)
        self._open = self._weight.inputs.open(self._weight.task)
        inputs = self._open.__enter__()
        assert self._weight.combination is not None  # only what has coefficients is reduced
        with torch.enable_grad():
            self._made = self._weight.combination.make(
                inputs, self._leaf, self._dtype, self._chosen
            )
        self.value = self._made.detach()
        return self

    def reduce(self, gradient: torch.Tensor) -> torch.Tensor:
        """dL/drow from dL/dW, by the fused backward pass of the merge."""
        [found] = torch.autograd.grad(self._made, self._leaf, gradient)
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self.value, self._made
        self._open.__exit__(kind, error, trace)

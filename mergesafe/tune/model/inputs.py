"""The tensors that merged weights are made of: resident, or read from the checkpoints each time.

Inputs are what the merge engine would compute with: stored values, rounded to the recipe's
``dtype`` where it is narrower, a LoRA expert's as ``W + scale * B @ A`` in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from mergesafe.chat.weights import lora_factors, plain_bytes, read, torch_dtype
from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import View
from mergesafe.dtypes import SIZES
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.ops.low_rank import add_low_rank
from mergesafe.outline.sources import Operand


class Inputs(Protocol):
    """Where the inputs of a merge come from. ``reused``: their memory is, once they are closed."""

    reused: bool

    def open(self, task: TensorTask) -> AbstractContextManager[list[torch.Tensor]]:
        """The task's inputs in the plan's order, one block at a time."""

    def expect(self, names: Sequence[str]) -> None:
        """The tensors that will be opened next, in order."""

    def close(self) -> None:
        """Give up memory, files and threads."""


class Resident:
    """Every input in memory, each stored tensor once however many models share it."""

    reused = False

    def __init__(
        self, tasks: Sequence[TensorTask], device: torch.device, *, pinned: bool = False
    ) -> None:
        self._loaded: dict[str, list[torch.Tensor]] = {}
        with Reader() as reader:
            for task in tasks:
                stored = {s.view.plain: read(s.view.plain, reader) for s in task.sources}
                pairs = [s.view.lora for s in task.sources if s.view.lora]
                factors = {pair: lora_factors(pair, reader) for pair in pairs}
                made = [
                    made_of(s.view, stored[s.view.plain], factors, task.cast_of(i))
                    for i, s in enumerate(task.sources)
                ]
                moved = {id(x): x.pin_memory() if pinned else x.to(device) for x in made}
                self._loaded[task.name] = [moved[id(x)] for x in made]

    @contextmanager
    def open(self, task: TensorTask) -> Iterator[list[torch.Tensor]]:
        yield self._loaded[task.name]

    def expect(self, names: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        self._loaded.clear()


#: A and B in float32 by their pair.
Factors = Mapping[LoraPair, tuple[torch.Tensor, torch.Tensor]]


def distinct(task: TensorTask) -> list[Operand]:
    """The sources that differ, in order."""
    return list({source.view: source for source in task.sources}.values())


def resident_bytes(task: TensorTask) -> int:
    """What a task's inputs take in memory."""
    stored = {source.view.plain for source in task.sources}
    adapted = [source.view for source in distinct(task) if source.view.lora]
    return sum(map(plain_bytes, stored)) + sum(4 * view.numel for view in adapted)


def made_of(
    view: View,
    stored: torch.Tensor,
    factors: Factors,
    cast: str | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """One input on the CPU, as the merge engine takes it; a LoRA expert's into ``out``."""
    tensor = stored
    if view.lora is not None:
        tensor = add_low_rank(stored, *factors[view.lora], view.lora.scale, out)
    if cast is not None and SIZES[cast] < tensor.element_size():
        tensor = tensor.to(torch_dtype(cast))
    return tensor

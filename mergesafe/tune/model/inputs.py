"""The tensors that merged weights are made of: resident, or read from the checkpoints each time.

Inputs are what the merge engine would compute with: stored values, rounded to the recipe's
``dtype`` where it is narrower, a LoRA expert's as ``W + scale * B @ A`` in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.dtypes import CONFIG_NAMES, SIZES
from mergesafe.engine.plan.merge_plan import TensorTask
from mergesafe.engine.run.kernels import Buffer, low_rank
from mergesafe.outline.sources import Source


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
                stored = {s.info: read(s.info, reader) for s in task.sources}
                factors = {s.lora: lora_factors(s.lora, reader) for s in task.sources if s.lora}
                made = [made_of(s, stored[s.info], factors, task.cast) for s in task.sources]
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


def distinct(task: TensorTask) -> list[Source]:
    """The sources that differ, in order."""
    return list({(source.info, source.lora): source for source in task.sources}.values())


def resident_bytes(task: TensorTask) -> int:
    """What a task's inputs take in memory."""
    stored = {source.info: source.info.nbytes for source in task.sources}
    return sum(stored.values()) + sum(4 * s.info.numel for s in distinct(task) if s.lora)


def made_of(
    source: Source,
    stored: torch.Tensor,
    factors: Factors,
    cast: str | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """One input on the CPU, as the merge engine takes it; a LoRA expert's into ``out``."""
    tensor = stored
    if source.lora is not None:
        if out is None:
            out = torch.empty(stored.shape, dtype=torch.float32)
        tensor = _adapted(stored, source.lora, *factors[source.lora], out)
    if cast is not None and SIZES[cast] < tensor.element_size():
        tensor = tensor.to(torch_dtype(cast))
    return tensor


def lora_factors(pair: LoraPair, reader: Reader) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B in float32; Bᵀ and Aᵀ where the base is stored transposed."""
    a, b = read(pair.a, reader).float(), read(pair.b, reader).float()
    return (b.T.contiguous(), a.T.contiguous()) if pair.transposed else (a, b)


def _adapted(
    weight: torch.Tensor, pair: LoraPair, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """``weight + scale * B @ A`` in float32, to the bits of a merge."""
    name = next(key for key in CONFIG_NAMES if torch_dtype(key) == weight.dtype)
    stored = Buffer(weight.data_ptr(), memoryview(b""), name, name)
    low_rank(
        stored, (a.data_ptr(), a.numel()), (b.data_ptr(), b.numel()), pair.rank, weight.shape[-1],
        pair.scale, 0, weight.numel(), out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out


def read(info: TensorInfo, reader: Reader, into: torch.Tensor | None = None) -> torch.Tensor:
    """The stored tensor; its bytes into ``into`` where given."""
    if into is None:
        into = torch.empty(info.nbytes, dtype=torch.uint8)
    raw: Any = into.numpy()
    reader.read_into(info, 0, memoryview(raw))
    return into.view(torch_dtype(info.dtype)).view(info.shape)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a safetensors name."""
    dtype: torch.dtype = getattr(torch, CONFIG_NAMES[name])
    return dtype

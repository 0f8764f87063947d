"""The tensors that merged weights are made of: resident, or read from the checkpoints each time.

Inputs are what the merge engine would compute with: stored values, rounded to the recipe's
``dtype`` where it is narrower, a LoRA expert's as ``W + scale * B @ A`` in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from mergesafe.checkpoint.lora import LoraPair
from mergesafe.checkpoint.reader import Reader
from mergesafe.checkpoint.safetensors import TensorInfo
from mergesafe.dtypes import CONFIG_NAMES, SIZES
from mergesafe.engine.kernels import Buffer, low_rank
from mergesafe.engine.plan import TensorTask
from mergesafe.engine.sources import Source


class Inputs(Protocol):
    """Where the inputs of a merge come from. ``reused``: their memory is, once they are closed."""

    reused: bool

    def open(self, task: TensorTask) -> AbstractContextManager[list[torch.Tensor]]:
        """A context that gives the task's inputs in the plan's order."""

    def expect(self, names: Sequence[str]) -> None:
        """The tensors that will be opened next, in order."""


class Resident:
    """Every input in memory, each stored tensor once however many models share it."""

    reused = False

    def __init__(self, tasks: Sequence[TensorTask], device: torch.device) -> None:
        self._loaded: dict[str, list[torch.Tensor]] = {}
        shared: dict[Any, torch.Tensor] = {}
        with Reader() as reader:
            for task in tasks:
                self._loaded[task.name] = [
                    _once(shared, source, task, reader, device) for source in task.sources
                ]
                shared.clear()

    @contextmanager
    def open(self, task: TensorTask) -> Iterator[list[torch.Tensor]]:
        yield self._loaded[task.name]

    def expect(self, names: Sequence[str]) -> None:
        pass


def _once(
    shared: dict[Any, torch.Tensor],
    source: Source,
    task: TensorTask,
    reader: Reader,
    device: torch.device,
) -> torch.Tensor:
    key = source.info.path, source.info.name, id(source.lora) if source.lora else None
    if key not in shared:
        shared[key] = load(source, task.cast, reader).to(device)
    return shared[key]


def load(source: Source, cast: str | None, reader: Reader) -> torch.Tensor:
    """One input on the CPU, as the merge engine takes it."""
    tensor = read(source.info, reader)
    if source.lora is not None:
        tensor = adapted(tensor, source.lora, reader)
    if cast is not None and SIZES[cast] < tensor.element_size():
        tensor = tensor.to(torch_dtype(cast))
    return tensor


def adapted(weight: torch.Tensor, pair: LoraPair, reader: Reader) -> torch.Tensor:
    """``weight + scale * B @ A`` in float32, to the bits of a merge."""
    a, b = (read(info, reader).float() for info in (pair.a, pair.b))
    out = torch.empty(weight.shape, dtype=torch.float32)
    name = next(key for key, value in CONFIG_NAMES.items() if torch_dtype(key) == weight.dtype)
    stored = Buffer(weight.data_ptr(), memoryview(b""), name, name)
    low_rank(
        stored, a.data_ptr(), b.data_ptr(), pair.rank, weight.shape[-1], pair.scale, 0,
        weight.numel(), out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out


def read(info: TensorInfo, reader: Reader) -> torch.Tensor:
    """The stored tensor."""
    tensor = torch.empty(info.shape, dtype=torch_dtype(info.dtype))
    raw: Any = tensor.view(-1).view(torch.uint8).numpy()
    reader.read_into(info, 0, memoryview(raw))
    return tensor


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a safetensors name."""
    dtype: torch.dtype = getattr(torch, CONFIG_NAMES[name])
    return dtype

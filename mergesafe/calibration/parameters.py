"""The parameters of a model that transformers makes, read from the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, Protocol

import torch

from mergesafe.architecture.experts import matrices
from mergesafe.chat.weights import lora_factors, read
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.rows import Rows, Run
from mergesafe.checkpoint.views.view import View
from mergesafe.errors import ModelError, NonFiniteError
from mergesafe.ops.low_rank import add_low_rank
from mergesafe.outline.sources import Model

#: What transformers calls a part of a layer, and what checkpoints of some models call it.
_OTHER_NAMES: Final = ((".mlp.", ".block_sparse_moe."),)


@dataclass(frozen=True)
class Part:
    """A stored tensor that is a parameter, or elements [begin, begin + its own) of one."""

    name: str
    shape: tuple[int, ...]
    begin: int = 0

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """These elements of a parameter."""
        return parameter.reshape(-1)[self.begin : self.begin + self.numel].view(self.shape)


class Weights(Protocol):
    """Where the parameters of a model come from."""

    def parts(self, name: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """The stored tensors that the parameter ``name`` of that shape consists of."""

    def value(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The parameter in float32, in memory of its own."""

    def rows(self, name: str, shape: tuple[int, ...], chosen: Sequence[int]) -> torch.Tensor:
        """Rows of a matrix in float32, by their numbers, which ascend."""


class StoredWeights:
    """The parameters of a checkpoint, an adapter folded in as a merge does it."""

    def __init__(self, model: Model, reader: Reader) -> None:
        self._model, self._reader = model, reader

    def parts(self, name: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """The stored tensors that the parameter consists of: of a mixture whose experts are stored
        one by one, each expert's.

        Raises:
            ModelError: there are none, or their shapes are others.
        """
        found = self._found(name, shape)
        for part in found:
            there = self._view(part.name).shape
            if there != part.shape:
                raise ModelError(
                    f"{self._model.text}: tensor '{part.name}' has shape {list(there)}, but its "
                    f"configuration makes a model with {list(part.shape)}. config.json and weights "
                    "do not belong together: use those of one model."
                )
        return found

    def value(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The parameter in float32.

        Raises:
            NonFiniteError: it holds NaN or infinity, which some layers hide: an attention that
                gives a token with NaN no weight is finite.
        """
        parts = self.parts(name, shape)
        made = torch.empty(shape, dtype=torch.float32)
        for part in parts:
            part.of(made).copy_(tensor_of(self._view(part.name), self._reader))
            if odd := int((~part.of(made).isfinite()).sum()):
                values = "1 value that is" if odd == 1 else f"{odd:,} values that are"
                raise NonFiniteError(
                    f"{self._view(part.name).info.path}: tensor '{part.name}' holds {values} NaN "
                    "or infinite, so that what is measured of this model means nothing. Repair or "
                    "replace the checkpoint."
                )
        return made

    def rows(self, name: str, shape: tuple[int, ...], chosen: Sequence[int]) -> torch.Tensor:
        """Rows of a matrix in float32; of one that an adapter changes, all are read for them."""
        [part] = self.parts(name, shape)
        view = self._view(part.name)
        if view.lora is not None:
            return tensor_of(view, self._reader)[list(chosen)].float()
        runs = tuple(Run(row, i, 1) for i, row in enumerate(chosen))
        return read(Rows(view, runs, len(runs)), self._reader).float()

    def _view(self, name: str) -> View:
        source = self._model.source(name)
        assert source is not None  # it was found by this name
        return source.view

    def _found(self, name: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
        spellings = [name, *(name.replace(*other) for other in _OTHER_NAMES if other[0] in name)]
        for spelling in spellings:
            if self._model.source(spelling) is not None:
                return (Part(spelling, shape),)
        config = self._model.checkpoint.config
        experts = matrices(name, shape, config) or ()
        if experts and all(self._model.source(each.name) is not None for each in experts):
            return tuple(Part(each.name, each.shape, each.begin) for each in experts)
        first = next(iter(self._model.checkpoint.tensors))
        raise ModelError(
            f"{self._model.text}: transformers makes a model with the parameter '{name}', which no "
            f"tensor of the checkpoint is called; its tensors have names such as '{first}'. "
            "Calibration needs a text model whose tensors have the names of transformers."
        )


def tensor_of(view: View, reader: Reader) -> torch.Tensor:
    """All elements of a view; those that an adapter changes in float32, as a merge makes them.

    Raises:
        CheckpointError: it cannot be read.
    """
    stored = read(view.plain, reader)
    if view.lora is None:
        return stored
    return add_low_rank(stored, *lora_factors(view.lora, reader), view.lora.scale)

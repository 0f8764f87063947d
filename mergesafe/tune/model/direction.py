"""What a dense combination adds to one tensor's base, as a function of the coefficients.

At given numbers it is made once and kept, and so is what a method prepares of the operands whatever
the numbers. For a gradient the method's function is run once more, with torch scalars among its
settings: the graph of one matrix lies in memory at a time. Task vectors of low rank are merged in
the space that they share, where the method can do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from mergesafe.methods.numbers import is_traced, plain
from mergesafe.methods.spec import Dense, Settings, TensorContext
from mergesafe.ops.tiles import Tile, direction, prepared, whole
from mergesafe.tune.model.shared_space import SharedSpace, shared_space

Tensor: TypeAlias = torch.Tensor


class Direction:
    """Of one tensor. Operands are one-dimensional, as :func:`mergesafe.ops.tiles.apply` has them.

    Raises (from both methods):
        BrokenContractError: the method's function raised an error, or returned what it must not.
    """

    def __init__(self, tensor: TensorContext) -> None:
        self._tensor = tensor
        self._prepared: tuple[Any, Any] | None = None
        self._made: tuple[Any, Tensor] | None = None
        #: Whether the task vectors have been looked at, and the space that they share.
        self._looked = False
        self._space: SharedSpace | None = None

    def at(self, how: Dense, operands: Sequence[Tensor]) -> Tensor:
        """float32 [elements] at a scale of 1, without a graph."""
        key = how.function, how.prepare, numbers(how.settings)
        with torch.no_grad():
            if self._made is None or self._made[0] != key:
                self._made = key, self._direction(how, operands)
            return self._lifted(self._made[1])

    def traced(self, how: Dense, operands: Sequence[Tensor]) -> Tensor:
        """The same with a graph, where a setting has one."""
        if not any(value.requires_grad for value in scalars(how.settings)):
            return self.at(how, operands)
        return self._lifted(self._direction(how, operands))

    def _direction(self, how: Dense, operands: Sequence[Tensor]) -> Tensor:
        """In the space that the task vectors share, where there is one."""
        if not self._looked:
            self._looked = True
            if how.turns and how.prepare is None:
                with torch.no_grad():
                    self._space = shared_space(self._whole(operands))
        tile = self._whole(operands) if self._space is None else self._space.tile
        return direction(how, tile, self._ready(how, tile))

    def _whole(self, operands: Sequence[Tensor]) -> Tile:
        return whole(self._tensor, [x.float() for x in operands])

    def _lifted(self, made: Tensor) -> Tensor:
        return made if self._space is None else self._space.lifted(made)

    def _ready(self, how: Dense, tile: Tile) -> Any:
        if self._prepared is None or self._prepared[0] != how.prepare:
            with torch.no_grad():
                self._prepared = how.prepare, prepared(how, tile)
        return self._prepared[1]


def numbers(settings: Any) -> Any:
    """Settings with numbers in place of torch scalars, to be compared."""
    if isinstance(settings, Settings):
        inputs = tuple(numbers(each) for each in settings.inputs)
        return Settings(numbers(settings.shared), inputs)
    if isinstance(settings, Mapping):
        return {name: numbers(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return tuple(numbers(value) for value in settings)
    return plain(settings)


def scalars(settings: Any) -> Iterator[Tensor]:
    """The torch scalars among settings."""
    if isinstance(settings, Settings):
        settings = (settings.shared, settings.inputs)
    if isinstance(settings, Mapping):
        settings = tuple(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            yield from scalars(value)
    elif is_traced(settings):
        yield settings

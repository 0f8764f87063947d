"""What a dense combination adds to one tensor's base, as a function of the coefficients.

At given numbers it is made once and kept, and so is what a method prepares of the operands whatever
the numbers. For a gradient the method's function is run once more, with torch scalars among its
settings: the graph of one matrix lies in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from mergesafe.methods.numbers import is_traced, plain
from mergesafe.methods.spec import Dense, Settings, TensorContext
from mergesafe.ops.tiles import Tile, direction, prepared, whole

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

    def at(self, how: Dense, operands: Sequence[Tensor]) -> Tensor:
        """float32 [elements] at a scale of 1, without a graph."""
        key = how.function, how.prepare, numbers(how.settings)
        if self._made is None or self._made[0] != key:
            with torch.no_grad():
                self._made = key, self._direction(how, operands)
        return self._made[1]

    def traced(self, how: Dense, operands: Sequence[Tensor]) -> Tensor:
        """The same with a graph, where a setting has one."""
        if not any(value.requires_grad for value in scalars(how.settings)):
            return self.at(how, operands)
        return self._direction(how, operands)

    def _direction(self, how: Dense, operands: Sequence[Tensor]) -> Tensor:
        tile = whole(self._tensor, [x.float() for x in operands])
        return direction(how, tile, self._ready(how, tile))

    def _ready(self, how: Dense, tile: Tile) -> Any:
        if self._prepared is None or self._prepared[0] is not how.prepare:
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

"""What a tile function is given, how it is run, and a row sum whose order is fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from numbers import Real
from typing import Any

import torch

from mergesafe.methods.combinations import Dense, TileFunction, Unit
from mergesafe.methods.contract import BrokenContractError, raised, shown
from mergesafe.methods.spec import LowestTensors, Sparsify, TensorContext
from mergesafe.ops.backends.registry import get_backend


@dataclass(frozen=True)
class Tile:
    """A run of elements of one tensor, of every operand, in float32.

    ``tensor``: what is known about the whole tensor. ``begin``: the number of the tile's first
    element in it. ``base``: of the separate base; None without one. ``inputs``: of the others, in
    the method's order. Each is 1-D, or [rows, columns] where the method's unit is a row, or of the
    tensor's own shape where it is the whole. ``calibration``: by the names that the method declares
    (:class:`mergesafe.methods.spec.Calibration`), one for each of ``inputs``; names of which there
    is nothing for this tensor are left out. ``references``: by the names that the method declares
    (:class:`mergesafe.methods.spec.Reference`). ``prepared``: what a dense combination's
    ``prepare`` returned. ``scores``: of the combination's ``scores``, each of the tile's shape.
    Nothing of this must be written to.
    """

    tensor: TensorContext
    begin: int
    base: torch.Tensor | None
    inputs: tuple[torch.Tensor, ...]
    calibration: Mapping[str, tuple[torch.Tensor, ...]] = field(default_factory=dict)
    references: Mapping[str, torch.Tensor] = field(default_factory=dict)
    prepared: Any = None
    scores: tuple[torch.Tensor, ...] = ()

    @cached_property
    def deltas(self) -> tuple[torch.Tensor, ...]:
        """The task vectors: each input minus the separate base.

        Raises:
            BrokenContractError: there is no separate base.
        """
        if self.base is None:
            raise BrokenContractError(
                "the function uses tile.deltas, but there is no separate base",
                "base='required' in the method's declaration",
            )
        base = self.base
        return tuple(x - base for x in self.inputs)

    def masked(self, values: torch.Tensor, mask: Sparsify) -> torch.Tensor:
        """``values`` of the tile's shape where the mask keeps them, times its factor; else 0.

        A constant for the gradient, as masks are.
        """
        flat = values.detach().reshape(-1)
        kept = get_backend("auto", flat.device).merge_task_vectors(
            torch.zeros_like(flat), [flat], [mask], (1.0,), "none", False, 1.0, self.begin,
            torch.float32,
        )  # fmt: skip
        return kept.view(values.shape)

    @staticmethod
    def row_sum(values: torch.Tensor) -> torch.Tensor:
        """See :func:`row_sum`."""
        return row_sum(values)


def apply(
    combination: TileFunction,
    tensor: TensorContext,
    operands: Sequence[torch.Tensor],
    begin: int = 0,
    scores: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """What the combination makes of a run of elements that begins with number ``begin``.

    ``operands``: 1-D, float32: a separate base, the inputs, then what ``tensor.references`` names,
    then what ``tensor.calibration`` names, one for each input. The result is 1-D and float32.
    ``scores``: the combination's, where they are known.

    Raises:
        BrokenContractError: the function raised an error, or returned what it must not.
    """
    tile = _tile(combination.unit, tensor, operands, begin)
    if combination.scores:
        with torch.no_grad():
            known = scores or [apply(x, tensor, operands, begin) for x in combination.scores]
        tile = replace(tile, scores=tuple(x.view(tile.inputs[0].shape) for x in known))
    if isinstance(combination, Dense):
        made = direction(combination, tile, prepared(combination, tile)) * combination.scale
        return operands[0] + made if tensor.base else made
    return _checked(_called(combination.function, tile, combination.settings), combination, tile)


def whole(tensor: TensorContext, operands: Sequence[torch.Tensor]) -> Tile:
    """What a dense combination is given of the operands, which are those of :func:`apply`."""
    return _tile(Unit.MATRIX, tensor, operands, 0)


def numbers_of(
    request: LowestTensors, tensor: TensorContext, operands: Sequence[torch.Tensor]
) -> Sequence[float]:
    """A number of each input, by the function of ``request``; operands are those of :func:`apply`.

    Raises:
        BrokenContractError: the function raised an error, or returned what it must not.
    """
    found = _called(request.number, whole(tensor, operands), request.settings)
    listed = list(found) if isinstance(found, (list, tuple)) else []
    if len(listed) != tensor.inputs or not all(isinstance(number, Real) for number in listed):
        raise BrokenContractError(
            f"{_name(request.number)}() returned {shown(found)}",
            f"a list of {tensor.inputs} numbers, one per {tensor.scope.noun}",
        )
    return [float(number) for number in listed]


def prepared(combination: Dense, tile: Tile) -> Any:
    """What the combination's ``prepare`` returns; None without one.

    Raises:
        BrokenContractError: it raised an error, or wrote to a tensor.
    """
    return None if combination.prepare is None else _called(combination.prepare, tile)


def direction(combination: Dense, tile: Tile, prepared: Any) -> torch.Tensor:
    """What a dense combination adds at a scale of 1, 1-D and float32.

    Raises:
        BrokenContractError: see :func:`apply`.
    """
    tile = tile if prepared is None else replace(tile, prepared=prepared)
    return _checked(_called(combination.function, tile, combination.settings), combination, tile)


def _tile(unit: Unit, tensor: TensorContext, operands: Sequence[torch.Tensor], begin: int) -> Tile:
    n = operands[0].numel()
    shape = tile_shape(unit, tensor.shape, n)
    first = 1 if tensor.base else 0
    members = first + tensor.inputs
    models = members + len(tensor.references)
    shaped = [x.view(shape) for x in operands[:models]]
    beside = [x.view(shape if x.numel() == n else (shape[-1], -1)) for x in operands[models:]]
    return Tile(
        tensor, begin, shaped[0] if first else None, tuple(shaped[first:members]),
        {name: tuple(beside[i * tensor.inputs : (i + 1) * tensor.inputs])
         for i, name in enumerate(tensor.calibration)},
        dict(zip(tensor.references, shaped[members:], strict=True)),
    )  # fmt: skip


def _called(function: Callable[..., Any], tile: Tile, *settings: Any) -> Any:
    """What a function of a method's own returns, unchecked."""
    given = _given(tile)
    before = _versions(given)
    try:
        made = function(tile, *settings)
    except BrokenContractError:
        raise
    except Exception as error:
        raise BrokenContractError(
            f"{_name(function)}() raised {raised(error)}",
            f"a float32 tensor of the shape {list(tile.inputs[0].shape)}",
        ) from error
    if before != _versions(given):
        raise BrokenContractError(
            f"{_name(function)}() wrote to a tensor that it was given",
            "new tensors: x * 2 in place of x *= 2 or x.mul_(2)",
        )
    return made


def _checked(made: Any, combination: TileFunction, tile: Tile) -> torch.Tensor:
    """What the function returned, 1-D."""
    _check(made, _name(combination.function), tuple(tile.inputs[0].shape), _given(tile))
    flat: torch.Tensor = made.reshape(-1)
    return flat


def _given(tile: Tile) -> list[torch.Tensor]:
    """The tensors of a tile."""
    base = [] if tile.base is None else [tile.base]
    numbers = (x for each in tile.calibration.values() for x in each)
    return [*base, *tile.inputs, *tile.references.values(), *numbers]


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", repr(function))


def _versions(tensors: Sequence[torch.Tensor]) -> list[int]:
    """How often each was written to; tensors of inference mode do not count it."""
    return [x._version for x in tensors if not x.is_inference()]


def tile_shape(unit: Unit, shape: Sequence[int], n: int) -> tuple[int, ...]:
    """The shape in which a function sees ``n`` elements of a tensor of this shape."""
    if unit is Unit.ELEMENT:
        return (n,)
    if unit is Unit.MATRIX:
        return tuple(shape)
    columns = shape[-1] if shape else 1
    return (n // columns if columns else 0, columns)


def row_sum(values: torch.Tensor) -> torch.Tensor:
    """The sums of the rows (last dimension) in float64, of shape [..., 1].

    Halves are added until one column is left, so that the order, and with it every bit, is the same
    on every device and for every tile of whole rows.
    """
    sums = values.to(torch.float64)
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        odd = sums[..., 2 * half :]
        sums = sums[..., :half] + sums[..., half : 2 * half]
        sums = torch.cat([sums, odd], dim=-1) if odd.shape[-1] else sums
    return sums if sums.shape[-1] else sums.new_zeros((*sums.shape[:-1], 1))


def _check(made: Any, name: str, shape: tuple[int, ...], operands: Sequence[torch.Tensor]) -> None:
    expected = f"a float32 tensor of the shape {list(shape)} on {operands[0].device}"
    if not isinstance(made, torch.Tensor):
        raise BrokenContractError(f"{name}() returned a {type(made).__name__}", expected)
    if made.dtype is not torch.float32 or made.device != operands[0].device:
        what = f"{made.dtype} on {made.device}".removeprefix("torch.")
        raise BrokenContractError(f"{name}() returned {what}", expected)
    if tuple(made.shape) != shape:
        raise BrokenContractError(
            f"{name}() returned the shape {list(made.shape)} of {prod(made.shape)} values", expected
        )
    if prod(shape) and bool(made.isnan().any()) and all(bool(x.isfinite().all()) for x in operands):
        raise BrokenContractError(
            f"{name}() returned NaN, though all operands are finite",
            "numbers: look for 0 / 0 or infinity - infinity in the function",
        )

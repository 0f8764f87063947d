"""Weights and scales as float64 tensors that keep their gradient, and how jobs share them.

Only shapes, dtypes and devices of tensors are checked here: reading their values would wait for
the device and stop a compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

import torch

from mergesafe.errors import ArgumentError
from mergesafe.ops import arguments
from mergesafe.ops.arrays import as_tensor, is_array


@dataclass(frozen=True)
class Layout:
    """How T tensors are cut into jobs: job j is ``sizes[j]`` elements of tensor ``owners[j]``.

    The jobs of a tensor follow each other and cover it.
    """

    owners: list[int]
    sizes: list[int]

    @property
    def count(self) -> int:
        return len(self.owners)


Numbers: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | torch.Tensor
Scales: TypeAlias = float | Sequence[float] | torch.Tensor


def is_traced(*values: object) -> bool:
    """Whether autograd or a compiler must see a call with these coefficients."""
    return torch.compiler.is_compiling() or any(isinstance(x, torch.Tensor) for x in values)


def are_numbers(weights: object, scale: object = 1.0) -> bool:
    """Whether there is one row of plain numbers, outside of a compiler."""
    if is_traced(weights, scale) or not isinstance(scale, Real) or is_array(weights):
        return False
    return not (isinstance(weights, Sequence) and any(_is_row(row) for row in weights))


def weights_of(value: object, count: int) -> torch.Tensor:
    """float64 [count] or [rows, count]."""
    if is_array(value):
        value = as_tensor("weights", value)
    if isinstance(value, torch.Tensor):
        if value.ndim not in (1, 2) or value.shape[-1] != count:
            raise ArgumentError(
                f"weights has shape {tuple(value.shape)}; expected a 1-D tensor of {count} "
                f"numbers, one per tensor, or [rows, {count}]"
            )
        return _float64("weights", value)
    if isinstance(value, Sequence) and any(_is_row(row) for row in value):
        table = [arguments.coefficients(f"weights[{r}]", row, count) for r, row in enumerate(value)]
        return torch.tensor(table, dtype=torch.float64)
    return torch.tensor(arguments.coefficients("weights", value, count), dtype=torch.float64)


def scale_of(value: object) -> torch.Tensor:
    """float64 [] or [rows]."""
    if is_array(value):
        value = as_tensor("scale", value)
    if isinstance(value, torch.Tensor):
        if value.ndim > 1:
            raise ArgumentError(
                f"scale has shape {tuple(value.shape)}; expected one number or a 1-D tensor"
            )
        return _float64("scale", value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        numbers = arguments.coefficients("scale", value, len(value))
        return torch.tensor(numbers, dtype=torch.float64)
    return torch.tensor(arguments.number("scale", value), dtype=torch.float64)


def rows(
    name: str, value: torch.Tensor, shared: int, layout: Layout, device: torch.device
) -> torch.Tensor:
    """One row per job: those given, or the one given (of ``shared`` dimensions) for all."""
    _check_device(name, value, device)
    if value.ndim == shared:
        return value.expand(layout.count, *value.shape)
    if value.shape[0] != layout.count:
        what = "block of rows" if layout.owners[-1] == 0 else "tensor"
        raise ArgumentError(
            f"{name} has {value.shape[0]} rows; expected {layout.count}, one per {what}"
        )
    return value


def _check_device(name: str, value: torch.Tensor, device: torch.device) -> None:
    """Coefficients lie where the tensors do, or are moved between a device and the CPU."""
    if value.device == device:
        return
    if value.device.type == "meta" or "cpu" not in (value.device.type, device.type):
        raise ArgumentError(
            f"{name} is on {value.device}, but the tensors are on {device}; expected {name} on "
            "the same device, or on the CPU"
        )


def row_blocks(
    shape: torch.Size, block_rows: object, weights: torch.Tensor, scale: torch.Tensor | None = None
) -> Layout:
    """How one tensor is cut along its first dimension: one job per row of coefficients."""
    if block_rows is not None:
        heights = _heights(block_rows, shape)
    elif weights.ndim == 2:
        heights = _equal_heights(weights.shape[0], shape)
    elif scale is not None and scale.ndim == 1:
        heights = _equal_heights(scale.shape[0], shape)
    else:
        return Layout([0], [shape.numel()])
    width = shape[1:].numel()
    return Layout([0] * len(heights), [height * width for height in heights])


def _equal_heights(blocks: int, shape: torch.Size) -> list[int]:
    if not shape or blocks == 0 or shape[0] % blocks:
        raise ArgumentError(
            f"{blocks} rows of coefficients cut a tensor of shape {tuple(shape)} into as many "
            f"equal blocks of rows, but {shape[0] if shape else 'a number'} cannot be divided by "
            f"{blocks}; give block_rows, the number of rows in each block"
        )
    return [shape[0] // blocks] * blocks


def _heights(block_rows: object, shape: torch.Size) -> list[int]:
    if (
        not isinstance(block_rows, (list, tuple))
        or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 0 for r in block_rows)
        or not shape
        or sum(block_rows) != shape[0]
    ):
        total = f"that add up to {shape[0]}" if shape else "of a tensor that has rows"
        raise ArgumentError(
            f"block_rows is {block_rows!r}; expected a list of row counts {total}, as the tensors "
            f"have shape {tuple(shape)}"
        )
    return list(block_rows)


def _float64(name: str, value: torch.Tensor) -> torch.Tensor:
    if value.dtype is torch.bool or value.dtype.is_complex:
        raise ArgumentError(f"{name} has dtype {value.dtype}; expected real numbers")
    return value.to(torch.float64)


def _is_row(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)

"""Merge methods of one's own, named ``tests.engine.written:NAME`` in recipes of the tests."""

from __future__ import annotations

from typing import Any

import torch

from mergesafe.methods.authoring import dense_method, tile_method
from mergesafe.methods.spec import Inputs, MergeMethod, Parameter, WeightedSum
from mergesafe.ops.tiles import Tile, row_sum

WEIGHT = Parameter(
    "weight", "float", "weight of the task vector", scope="model",
    tunable=(0.0, 1.0), gradient=True,
)  # fmt: skip


@tile_method(base="required", parameters=(WEIGHT,))
def summed(tile: Tile, settings: Any) -> torch.Tensor:
    """Base plus the weighted sum of the task vectors, as task arithmetic."""
    total = torch.zeros_like(tile.base)
    for weight, delta in zip(settings.column("weight"), tile.deltas, strict=True):
        total = total + weight * delta
    return tile.base + total


@tile_method(base="required")
def median(tile: Tile, settings: Any) -> torch.Tensor:
    """Base plus the median of the task vectors."""
    return tile.base + torch.stack(tile.deltas).median(dim=0).values


@tile_method(unit="row")
def unit_rows(tile: Tile, settings: Any) -> torch.Tensor:
    """The mean of the inputs, each row of which is first made one of length 1."""
    total = torch.zeros_like(tile.inputs[0])
    for x in tile.inputs:
        length = row_sum(x * x).sqrt().clamp(min=1e-20).float()
        total = total + x / length
    return total / len(tile.inputs)


@dense_method(
    base="required",
    parameters=(
        Parameter(
            "scale", "float", "factor on what is added", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    ),
)  # fmt: skip
def best_rank(tile: Tile, settings: Any) -> torch.Tensor:
    """The best approximation of rank 1 of the sum of the task vectors."""
    total = torch.stack(tile.deltas).sum(dim=0)
    if total.ndim != 2:
        return total * settings.shared["scale"]
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    return settings.shared["scale"] * s[0] * torch.outer(u[:, 0], v[0])


@tile_method(base="optional", least=2)
def middle(tile: Tile, settings: Any) -> torch.Tensor:
    """The middle of base and first input, or of the first two inputs."""
    one = tile.inputs[1] if tile.base is None else tile.base
    return 0.5 * (tile.inputs[0] + one)


@tile_method()
def short(tile: Tile, settings: Any) -> torch.Tensor:
    return tile.inputs[0][:-1]


@tile_method()
def double(tile: Tile, settings: Any) -> torch.Tensor:
    return tile.inputs[0].double()


@tile_method()
def nothing(tile: Tile, settings: Any) -> Any:
    return None


@tile_method()
def undefined(tile: Tile, settings: Any) -> torch.Tensor:
    return tile.inputs[0] * float("nan")


@tile_method()
def undeclared(tile: Tile, settings: Any) -> torch.Tensor:
    return tile.deltas[0]


@tile_method()
def failing(tile: Tile, settings: Any) -> torch.Tensor:
    return tile.inputs[0] / settings.shared["missing"]


def not_declared(tile: Tile, settings: Any) -> torch.Tensor:
    return tile.inputs[0]


class Halves(MergeMethod):
    """A class is as good as a function."""

    name, title, paper = "halves", "Halves", ""
    inputs = Inputs(least=2, most=2)

    def merge(self, tensor: Any, settings: Any) -> Any:
        yield from ()
        return WeightedSum((0.5, 0.5))


class Dividing(Halves):
    def merge(self, tensor: Any, settings: Any) -> Any:
        yield from ()
        return WeightedSum((1.0 / settings.shared.get("none", 0), 0.5))


class BadInputs(Halves):
    inputs = Inputs(base="sometimes")  # type: ignore[arg-type]


class BadParameter(Halves):
    parameters = (Parameter("k", "int", "how many", default=0.5),)


class TwiceNamed(Halves):
    parameters = (Parameter("k", "int", "", default=1), Parameter("k", "int", "", default=1))

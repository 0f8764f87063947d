"""Recipes of slices whose merges by mergekit 0.1.5 are stored, of mergekit_recipes.py's models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Of a slice: (model, first layer, end, its parameters).
Source = tuple[str, int, int, dict[str, Any]]


@dataclass(frozen=True)
class Stack:
    """A recipe of slices, each with its sources and the parameters of the slice."""

    method: str
    slices: list[tuple[list[Source], dict[str, Any]]]
    parameters: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    tied: bool = False
    #: The model that a slice takes for its base in place of the recipe's, by number of the slice.
    bases: dict[int, str] = field(default_factory=dict)

    def recipe(self, folder: Path) -> dict[str, Any]:
        """With the models that lie in ``folder``."""
        slices = []
        for number, (sources, parameters) in enumerate(self.slices):
            written: dict[str, Any] = {
                "sources": [
                    {"model": str(folder / m), "layer_range": [a, b], "parameters": dict(own)}
                    for m, a, b, own in sources
                ],
                "parameters": dict(parameters),
            }
            if number in self.bases:
                written["base_model"] = str(folder / self.bases[number])
            slices.append(written)
        head = {} if self.base is None else {"base_model": str(folder / self.base)}
        return {
            "merge_method": self.method, **head, "slices": slices,
            "parameters": dict(self.parameters), "dtype": "float32",
        }  # fmt: skip

    @property
    def layers(self) -> int:
        """How many layers the merged model has."""
        return sum(sources[0][2] - sources[0][1] for sources, _ in self.slices)


def _copy(*ranges: tuple[str, int, int]) -> list[tuple[list[Source], dict[str, Any]]]:
    return [([(model, first, end, {})], {}) for model, first, end in ranges]


_RISING = [0.1, 0.9]
STACKS = {
    "passthrough": Stack("passthrough", _copy(("one", 0, 2), ("two", 1, 3), ("one", 2, 3))),
    "passthrough base": Stack(
        "passthrough", _copy(("one", 0, 3), ("two", 0, 3)), base="base"
    ),
    "passthrough no layer last": Stack("passthrough", _copy(("one", 0, 3), ("two", 3, 3))),
    "passthrough no layer first": Stack("passthrough", _copy(("two", 0, 0), ("one", 0, 3))),
    "passthrough scale": Stack(
        "passthrough",
        [
            ([("one", 0, 2, {})], {}),
            ([("one", 1, 3, {"scale": [{"filter": "o_proj", "value": 0.0},
                                       {"filter": "layers.2.mlp.down", "value": [0.5, 0.25]},
                                       {"value": 1.0}]})], {}),
        ],
    ),
    "passthrough tied": Stack(
        "passthrough", _copy(("one", 0, 2), ("one", 1, 3)), tied=True
    ),
    "slerp": Stack(
        "slerp",
        [
            ([("base", 0, 2, {}), ("one", 1, 3, {})], {}),
            ([("two", 2, 3, {}), ("base", 0, 1, {})], {"t": [0.2, 0.7]}),
        ],
        {"t": [{"filter": "self_attn", "value": [0, 0.5, 0.3]}, {"filter": "mlp", "value": _RISING},
               {"value": 0.4}]},
        base="base",
    ),
    "ties": Stack(
        "ties",
        [
            ([("base", 0, 3, {}), ("one", 0, 3, {"weight": _RISING}),
              ("two", 0, 3, {"weight": 0.6, "density": 0.5})], {"density": 0.3}),
            ([("two", 1, 2, {}), ("three", 0, 1, {}), ("base", 2, 3, {})], {"lambda": 0.8}),
        ],
        {"weight": 0.4, "density": 0.7, "normalize": True},
        base="base",
    ),
    "task arithmetic other base": Stack(
        "task_arithmetic",
        [
            ([("base", 0, 2, {}), ("one", 0, 2, {"weight": 0.7})], {}),
            ([("two", 1, 3, {}), ("three", 0, 2, {"weight": _RISING})], {}),
        ],
        {"weight": 0.5},
        base="base",
        bases={1: "two"},
    ),
    "linear": Stack(
        "linear",
        [
            ([("one", 0, 3, {"weight": _RISING}), ("two", 0, 3, {"weight": 0.5})], {}),
            ([("three", 0, 1, {}), ("two", 1, 2, {})], {"weight": 1.0}),
        ],
    ),
    "linear tied": Stack(
        "linear",
        [
            ([("one", 0, 2, {"weight": 0.3}), ("two", 1, 3, {"weight": 0.7})], {}),
            ([("one", 0, 1, {"weight": 0.3}), ("two", 0, 1, {"weight": 0.7})], {}),
        ],
        tied=True,
    ),
}  # fmt: skip

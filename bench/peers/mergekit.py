"""mergekit's own merges of tensors that are in memory, by its public ``merge_tensors``.

mergekit 0.1.5 is meant. Its merge methods import torch, pydantic and typing_extensions alone, not
the packages that it needs for checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.data import DENSITY, Data, weights_of

#: Name of a measured case -> (mergekit's method, its parameters for all inputs together).
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "weighted_sum": ("linear", {"normalize": False}),
    "merge_task_arithmetic": ("task_arithmetic", {"normalize": False}),
    "ties_whole": ("ties", {"normalize": True, "density": DENSITY}),
}


def merger(name: str) -> Callable[[Data], Any]:
    """The case called ``name`` by mergekit. Raises ImportError where mergekit is missing."""
    from mergekit.merge_methods import merge_tensors

    method, shared = METHODS[name]

    def run(data: Data) -> Any:
        based = data.base.numel() > 0
        tensors = [data.base, *data.experts] if based else data.experts
        numbers = enumerate(weights_of(len(data.experts)), start=int(based))
        parameters = {**shared, "weight": dict(numbers)}
        base_index = 0 if based else None
        return merge_tensors(tensors, method, parameters=parameters, base_index=base_index)

    return run

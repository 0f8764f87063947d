"""Fused merge operations on torch tensors.

``merge_task_vectors``, ``weighted_sum``, ``kth_magnitude`` and ``gram`` are all that merge methods
are made of: statistics that reduce tensors to a few scalars, then one element-wise pass. Every
backend gives the same bits; ``get_backend`` and ``describe_backends`` name them.

The functions are loaded on first use, so that the parts that work without torch
(:mod:`mergesafe.ops.numbers`, :mod:`mergesafe.ops.backends.isa`) can be imported without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergesafe.ops.backends.registry import describe_backends, get_backend
    from mergesafe.ops.functional import gram, kth_magnitude, merge_task_vectors, weighted_sum

__all__ = [
    "describe_backends",
    "get_backend",
    "gram",
    "kth_magnitude",
    "merge_task_vectors",
    "weighted_sum",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mergesafe.ops' has no attribute '{name}'")
    home = "backends.registry" if name.endswith(("backend", "backends")) else "functional"
    return getattr(import_module(f"mergesafe.ops.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

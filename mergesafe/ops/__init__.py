"""Fused merge operations on torch tensors.

``merge_task_vectors``, ``weighted_sum``, ``kth_magnitude`` and ``gram`` are all that merge methods
are made of: statistics that reduce tensors to a few scalars, then one element-wise pass, with
gradients for the coefficients. ``*_batch`` serve many tensors in one call, and ``find_masks`` keeps
statistics for the next call. Every backend gives the same bits; ``get_backend`` and
``describe_backends`` name them.

The functions are loaded on first use, so that the parts that work without torch
(:mod:`mergesafe.ops.numbers`, :mod:`mergesafe.ops.backends.isa`) can be imported without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mergesafe.extras import load

if TYPE_CHECKING:
    from mergesafe.ops.backends.registry import describe_backends, get_backend
    from mergesafe.ops.batch import (
        find_masks_batch,
        merge_task_vectors_batch,
        weighted_sum_batch,
    )
    from mergesafe.ops.functional import (
        find_masks,
        gram,
        kth_magnitude,
        merge_task_vectors,
        weighted_sum,
    )

__all__ = [
    "describe_backends",
    "find_masks",
    "find_masks_batch",
    "get_backend",
    "gram",
    "kth_magnitude",
    "merge_task_vectors",
    "merge_task_vectors_batch",
    "weighted_sum",
    "weighted_sum_batch",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mergesafe.ops' has no attribute '{name}'")
    if name.endswith(("backend", "backends")):
        home = "backends.registry"
    else:
        home = "batch" if name.endswith("_batch") else "functional"
    return getattr(load(f"mergesafe.ops.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""The backends that compute gradients, and tensors to merge."""

from __future__ import annotations

from typing import Any

import torch

from mergesafe import ops
from mergesafe.ops.backends.native import NativeBackend

from .helpers import BF16, F32, ordinary

BACKENDS = ("reference", *(["native"] if hasattr(NativeBackend, "merge_gradients") else []))
ELECT = ("none", "sum", "count")

#: What masks are found with: options of mergesafe.ops.find_masks.
MASKS: dict[str, dict[str, Any]] = {
    "none": {"sparsify": "none"},
    "magnitude": {"sparsify": "magnitude", "density": [0.5, 0.8, 0.3], "rescale": "l2"},
    "outliers": {"sparsify": "magnitude_outliers", "density": 0.6, "gamma": 0.1},
    "random": {"sparsify": "random", "density": 0.5, "rescale": "inverse_density", "seed": 4},
}


def models(
    *shape: int, count: int = 3, dtype: torch.dtype = F32, seed: int = 0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base and experts near it."""
    n = torch.Size(shape).numel()
    base = ordinary(n, torch.float64, seed).view(shape)
    experts = [
        base + 0.1 * ordinary(n, torch.float64, seed + 1 + i).view(shape) for i in range(count)
    ]
    return base.to(dtype), [x.to(dtype) for x in experts]


def leaf(*values: Any, dtype: torch.dtype = F32) -> torch.Tensor:
    """A tensor of these numbers that requires grad."""
    return torch.tensor(values, dtype=dtype, requires_grad=True)


#: A model of tensors whose shapes and dtypes differ, some without elements.
SHAPES = ((4, 6), (), (0, 3), (5000,), (2, 3, 5))
BATCH_DTYPES = (F32, BF16, F32, BF16, F32)


def batch(
    count: int = 3, dtypes: tuple[torch.dtype, ...] = BATCH_DTYPES
) -> tuple[list[torch.Tensor], list[list[torch.Tensor]], list[str]]:
    """Bases [T], experts [N][T] and names [T]."""
    pairs = [
        models(*shape, count=count, dtype=dtype, seed=10 * t)
        for t, (shape, dtype) in enumerate(zip(SHAPES, dtypes, strict=True))
    ]
    columns = [[experts[i] for _, experts in pairs] for i in range(count)]
    return [base for base, _ in pairs], columns, [f"layer.{t}" for t in range(len(pairs))]


def masks_of(base: torch.Tensor, experts: list[torch.Tensor], kind: str, backend: str) -> Any:
    """Ready masks."""
    return ops.find_masks(base, experts, **MASKS[kind], name="w", backend=backend)

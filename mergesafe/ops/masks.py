"""Which elements of task vectors survive: checked options, statistics of whole tensors, and masks
as a tensor that a graph can carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast, get_args

import torch

from mergesafe.errors import ArgumentError
from mergesafe.methods.sparsify import Rescale, Sparsifier, rescale_rule, sparsify_masks
from mergesafe.methods.spec import Sparsify
from mergesafe.ops import arguments
from mergesafe.ops.backends.base import Backend
from mergesafe.ops.memory import named_memory_errors
from mergesafe.ops.statistics import drive_many

KINDS: Final[tuple[str, ...]] = get_args(Sparsifier)
RESCALES: Final[tuple[str, ...]] = get_args(Rescale)
GAMMA: Final = 0.01


@dataclass(frozen=True)
class MaskOptions:
    """Checked options; one density and gamma per expert."""

    kind: Sparsifier
    densities: list[float]
    gammas: list[float]
    rescale: Rescale
    seed: int


def mask_options(
    kind: object,
    density: float | Sequence[float] | None,
    gamma: float | Sequence[float],
    rescale: Rescale | bool,
    seed: int,
    count: int,
) -> MaskOptions:
    """Checks the options that choose the masks of ``count`` experts."""
    arguments.choice("sparsify", kind, KINDS)
    rule = rescale_rule(rescale)
    arguments.choice("rescale", rule, RESCALES)
    known = cast(Sparsifier, kind)
    densities = _densities(known, density, count)
    return MaskOptions(known, densities, _shares("gamma", gamma, count), rule, seed)


def find_all(
    options: MaskOptions,
    bases: Sequence[torch.Tensor],
    experts: Sequence[Sequence[torch.Tensor]],
    names: Sequence[str],
    backend: Backend,
) -> list[list[Sparsify]]:
    """The masks of every expert, for every tensor, from few calls of the backend."""
    steps = [
        sparsify_masks(
            options.kind,
            base.numel(),
            options.densities,
            options.gammas,
            options.rescale,
            options.seed,
            name,
        )
        for base, name in zip(bases, names, strict=True)
    ]
    doing = f"while the thresholds and norms of {len(bases)} tensors were sought"
    with named_memory_errors(bases[0].device, lambda: doing):
        return drive_many(steps, backend, bases, experts)


def mask_choice(
    sparsify: object,
    count: int,
    tensors: int,
    *,
    density: float | Sequence[float] | None,
    gamma: float | Sequence[float],
    rescale: Rescale | bool,
    seed: int,
    name: str | Sequence[str] | None,
) -> MaskOptions | list[list[Sparsify]]:
    """Options to find masks with, or the masks of every tensor where they are given."""
    if isinstance(sparsify, str) or not isinstance(sparsify, Sequence):
        return mask_options(sparsify, density, gamma, rescale, seed, count)
    chosen = {
        "density": density is not None,
        "gamma": gamma != GAMMA,
        "rescale": rescale_rule(rescale) != "none",
        "seed": seed != 0,
        "name": bool(name),
    }
    for option, is_chosen in chosen.items():
        if is_chosen:
            raise ArgumentError(
                f"{option} is given along with ready masks, which do not depend on it any more; "
                "give it to the function that finds the masks"
            )
    if len(sparsify) != tensors:
        raise ArgumentError(
            f"sparsify has the masks of {len(sparsify)} tensors; expected {tensors}"
        )
    return [_ready(masks, count) for masks in sparsify]


def _ready(masks: object, count: int) -> list[Sparsify]:
    if not isinstance(masks, Sequence) or not all(isinstance(m, Sparsify) for m in masks):
        raise ArgumentError(
            f"sparsify is {masks!r}; expected one of {', '.join(KINDS)}, or masks as "
            "mergesafe.ops.find_masks returns them"
        )
    if len(masks) != count:
        raise ArgumentError(f"sparsify has {len(masks)} masks; expected {count}, one per expert")
    return list(masks)


def encode(masks: Sequence[Sequence[Sparsify]]) -> torch.Tensor:
    """int64 [T, N, 6] on the CPU: lo, hi, random, key, threshold, and the bits of the rescale."""
    whole = [
        [[m.lo, m.hi, int(m.random), _signed(m.key), m.threshold] for m in row] for row in masks
    ]
    factors = torch.tensor([[[m.rescale] for m in row] for row in masks], dtype=torch.float64)
    return torch.cat([torch.tensor(whole, dtype=torch.int64), factors.view(torch.int64)], dim=2)


def decode(encoded: torch.Tensor) -> list[list[Sparsify]]:
    """The masks that :func:`encode` wrote down."""
    factors = encoded[:, :, 5].contiguous().view(torch.float64).tolist()
    return [
        [
            Sparsify(lo, hi, bool(random), key & 0xFFFFFFFFFFFFFFFF, threshold, factor)
            for (lo, hi, random, key, threshold, _), factor in zip(row, row_factors, strict=True)
        ]
        for row, row_factors in zip(encoded.tolist(), factors, strict=True)
    ]


def _signed(key: int) -> int:
    return key - (1 << 64) if key >= 1 << 63 else key


def _densities(
    kind: Sparsifier, density: float | Sequence[float] | None, count: int
) -> list[float]:
    if kind == "none":
        if density is not None:
            raise ArgumentError(
                "density is given, but sparsify is 'none', which keeps every element; choose "
                f"sparsify from {', '.join(KINDS[1:])}"
            )
        return [1.0] * count
    if density is None:
        raise ArgumentError(f"sparsify is '{kind}', which needs a density in [0, 1]")
    return _shares("density", density, count)


def _shares(name: str, value: float | Sequence[float], count: int) -> list[float]:
    values = arguments.coefficients(name, value, count, broadcast=True)
    return [arguments.number(f"{name}[{i}]", v, 0.0, 1.0) for i, v in enumerate(values)]

"""Which elements of a task vector survive, from densities: ranks, random keys, rescale factors.

These are generators over the statistics they need, so they serve a merge method, a call on plain
tensors and the streaming engine alike. No tensor is touched here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from mergesafe.methods.spec import (
    KEEP_NONE,
    DeltaNorms,
    KthMagnitude,
    ModelKthMagnitude,
    Sparsify,
    Statistic,
)

Sparsifier: TypeAlias = Literal["none", "magnitude", "magnitude_outliers", "random"]
Rescale: TypeAlias = Literal["none", "l1", "l2", "linf", "inverse_density"]
#: Asks for statistics and returns one mask per expert.
Masks: TypeAlias = Generator[Statistic, Any, list[Sparsify]]
#: Which descending ranks (1 = largest) bound what is kept: (lowest kept, highest kept).
Bounds: TypeAlias = tuple[int, int] | Literal["all", "none"]

#: Norms below this are not rescaled: the ratio would be noise.
TINY_NORM = 1e-7


def sparsify_masks(
    kind: Sparsifier,
    numel: int,
    densities: Sequence[float],
    gammas: Sequence[float],
    rescale: Rescale,
    seed: int,
    name: str,
    model_numel: int = 0,
) -> Masks:
    """Masks and rescale factors of ``len(densities)`` task vectors of ``numel`` elements.

    ``model_numel``: magnitudes are compared with those of all so many elements of the model, in
    place of the tensor's alone.
    """
    among = model_numel or numel
    ask = ModelKthMagnitude if model_numel else KthMagnitude
    if kind == "none":
        return [Sparsify() for _ in densities]
    if kind == "random":
        masks = [random_mask(seed, name, i, d) for i, d in enumerate(densities)]
    elif kind == "magnitude":
        masks = yield from _windows([largest(among, d) for d in densities], ask)
    else:
        bounds = [without_outliers(among, d, g) for d, g in zip(densities, gammas, strict=True)]
        masks = yield from _windows(bounds, ask)
    return (yield from _rescaled(masks, densities, rescale))


def rescale_rule(value: bool | Rescale) -> Rescale:
    """The rule that a ``rescale`` option names: true means l1, as in mergekit; false means none."""
    if isinstance(value, bool):
        return "l1" if value else "none"
    return value


def largest(numel: int, density: float) -> Bounds:
    """Keep the k = max(1, trunc(density * numel)) largest magnitudes."""
    if density >= 1.0:
        return "all"
    if density <= 0.0 or numel == 0:
        return "none"
    return max(1, int(density * numel)), 1


def without_outliers(numel: int, density: float, gamma: float) -> Bounds:
    """Drop the ``gamma`` share of largest magnitudes, keep the next ``density`` share."""
    if density >= 1.0:
        return "all"
    keep = int(density * numel)
    if keep == 0:
        return "none"
    top = int(gamma * numel)
    bottom = max(0, numel - keep - top)
    return numel - bottom, numel - (bottom + keep - 1)


def _windows(bounds: list[Bounds], ask: type[KthMagnitude | ModelKthMagnitude]) -> Masks:
    ranks: list[tuple[int, int]] = []
    for i, bound in enumerate(bounds):
        if isinstance(bound, tuple):
            ranks.append((i, bound[0]))
            if bound[1] != 1:  # rank 1 is the maximum: no upper bound to look for
                ranks.append((i, bound[1]))
    found: dict[tuple[int, int], int] = {}
    if ranks:
        answers = yield ask(tuple(ranks))
        found = dict(zip(ranks, answers, strict=True))
    masks = []
    for i, bound in enumerate(bounds):
        if bound == "all":
            masks.append(Sparsify())
        elif bound == "none":
            masks.append(Sparsify(*KEEP_NONE))
        else:
            low = found[i, bound[0]]
            masks.append(Sparsify(low) if bound[1] == 1 else Sparsify(low, found[i, bound[1]]))
    return masks


def random_mask(seed: int, name: str, index: int, density: float) -> Sparsify:
    """Keep each element with probability ``density``, decided by its own Philox word."""
    if density >= 1.0:
        return Sparsify()
    return Sparsify(
        random=True,
        key=random_key(seed, name, index),
        threshold=max(0, min(0xFFFFFFFF, int(density * 2.0**32))),
    )


def random_key(seed: int, name: str, index: int) -> int:
    """64-bit Philox key of (seed, tensor name, expert index)."""
    digest = blake2b(f"{seed}\0{index}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _rescaled(masks: list[Sparsify], densities: Sequence[float], rescale: Rescale) -> Masks:
    """Factor on the survivors: norm(delta) / norm(masked delta), or 1 / density."""
    if rescale == "none" or all(density >= 1.0 for density in densities):
        return masks
    if rescale == "inverse_density":
        factors = [1.0 / d if d > 0.0 else 1.0 for d in densities]
    else:
        norms = yield DeltaNorms(rescale, tuple(masks))
        factors = rescale_factors(norms)
    if all(mask == Sparsify() for mask in masks):  # the k-th magnitudes were 0: nothing is dropped
        return masks
    return [replace(mask, rescale=factor) for mask, factor in zip(masks, factors, strict=True)]


def rescale_factors(norms: Sequence[tuple[float, float]]) -> list[float]:
    """Norm of the whole over norm of what is left, from both, per expert."""
    return [
        1.0 if before < TINY_NORM or after < TINY_NORM else before / after
        for before, after in norms
    ]

"""The merges of many tensors in one call: one node in the graph, few calls of the backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast, get_args

import torch

from mergesafe.errors import ArgumentError
from mergesafe.methods.sparsify import Rescale, Sparsifier
from mergesafe.methods.spec import Sparsify
from mergesafe.ops import arguments, autograd, jobs
from mergesafe.ops.arguments import Operands
from mergesafe.ops.arrays import Array
from mergesafe.ops.backends.base import Elect
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.coefficients import (
    Layout,
    Numbers,
    Scales,
    is_traced,
    rows,
    scale_of,
    weights_of,
)
from mergesafe.ops.masks import (
    GAMMA,
    MaskOptions,
    encode,
    find_all,
    mask_choice,
    mask_options,
)

ELECTS: Final[tuple[str, ...]] = get_args(Elect)


def merge_task_vectors_batch(
    bases: Sequence[Array],
    experts: Sequence[Sequence[Array]],
    weights: Numbers,
    *,
    sparsify: Sparsifier | Sequence[Sequence[Sparsify]] = "none",
    density: float | Sequence[float] | None = None,
    gamma: float | Sequence[float] = GAMMA,
    rescale: Rescale | bool = "none",
    elect: Elect = "none",
    normalize: bool = False,
    scale: Scales = 1.0,
    seed: int = 0,
    names: Sequence[str] | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> list[torch.Tensor]:
    """:func:`merge_task_vectors` of a model's T tensors, in one call and one node of the graph.

    The results are those of T calls, to the last bit.

    Args:
        bases: the T tensors of the base model. Shapes and dtypes may differ, the device may not.
        experts: one list of T tensors per expert, each like the base's.
        weights: one number per expert for all tensors, [N], or one row per tensor, [T, N].
        sparsify: as there; ready masks come from :func:`find_masks_batch`.
        density: as there, for all tensors; so are gamma, rescale, elect, normalize and seed.
        scale: one number for all tensors, or one per tensor.
        names: the T tensors' names, which random masks need, so that no two are alike.
        out_dtype: dtype of all results; by default, for each tensor, the common type of base and
            experts.
        backend: "auto", or force one by name.

    Returns:
        T new contiguous tensors.

    Raises:
        ArgumentError, BackendError, DeviceMemoryError: as :func:`merge_task_vectors`.
    """
    named = [arguments.constants(pairs) for pairs in _named(bases, experts)]
    checked = _checked(named, backend)
    masks = mask_choice(
        sparsify,
        len(experts),
        len(bases),
        density=density,
        gamma=gamma,
        rescale=rescale,
        seed=seed,
        name=names,
    )
    layout, device = whole(checked), checked[0].device
    return merge_checked(
        checked,
        masks,
        _names(names, len(bases), masks),
        rows("weights", weights_of(weights, len(experts)), 1, layout, device),
        rows("scale", scale_of(scale), 0, layout, device),
        layout,
        elect,
        normalize,
        out_dtype,
        backend,
        traced=is_traced(weights, scale),
    )


def weighted_sum_batch(
    tensors: Sequence[Sequence[Array]],
    weights: Numbers,
    *,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> list[torch.Tensor]:
    """:func:`weighted_sum` of the T tensors of every model, in one call and one node of the graph.

    ``tensors``: one list of T tensors per model; shapes and dtypes may differ within a list, but
    not the device. ``weights``: one number per model for all tensors, [N], or one row per tensor,
    [T, N]. Returns T tensors, those of T calls to the last bit. Raises as :func:`weighted_sum`.
    """
    columns = _columns("tensors", tensors)
    named = [
        arguments.constants((f"tensors[{i}][{t}]", x[t]) for i, x in enumerate(columns))
        for t in range(len(columns[0]))
    ]
    checked = _checked(named, backend)
    layout = whole(checked)
    each = rows("weights", weights_of(weights, len(columns)), 1, layout, checked[0].device)
    return sum_checked(checked, each, layout, out_dtype, backend, traced=is_traced(weights))


def find_masks_batch(
    bases: Sequence[Array],
    experts: Sequence[Sequence[Array]],
    *,
    sparsify: Sparsifier,
    density: float | Sequence[float] | None = None,
    gamma: float | Sequence[float] = GAMMA,
    rescale: Rescale | bool = "none",
    seed: int = 0,
    names: Sequence[str] | None = None,
    backend: str = "auto",
) -> list[list[Sparsify]]:
    """:func:`find_masks` of T tensors in few passes, for :func:`merge_task_vectors_batch`.

    Arguments and errors are those of that function. Returns one list of N masks per tensor.
    """
    checked = _checked(_named(bases, experts), backend)
    options = mask_options(sparsify, density, gamma, rescale, seed, len(experts))
    return find_all(
        options,
        [each.tensors[0] for each in checked],
        [each.tensors[1:] for each in checked],
        _names(names, len(bases), options),
        get_backend(backend, checked[0].device),
    )


def merge_checked(
    checked: Sequence[Operands],
    masks: MaskOptions | list[list[Sparsify]],
    names: list[str],
    weights: torch.Tensor,
    scales: torch.Tensor,
    layout: Layout,
    elect: Elect,
    normalize: bool,
    out_dtype: torch.dtype | None,
    backend: str,
    *,
    traced: bool,
) -> list[torch.Tensor]:
    """Merges checked tensors, base first, through the operator where it is to be traced."""
    arguments.choice("elect", elect, ELECTS)
    dtype = None if out_dtype is None else arguments.out_dtype(out_dtype, backend)
    bases = [each.tensors[0] for each in checked]
    experts = [x for each in checked for x in each.tensors[1:]]
    if isinstance(masks, MaskOptions) and not torch.compiler.is_compiling():
        groups = jobs.grouped(experts, weights.shape[1])
        masks = find_all(masks, bases, groups, names, get_backend(backend, checked[0].device))
    tail = elect, bool(normalize), dtype, backend
    if traced:
        encoded = _encoded(masks, bases, experts, names, backend)
        outs = autograd.merge_task_vectors(
            bases, experts, weights, scales, encoded, layout.owners, layout.sizes, *tail
        )
    else:
        ready = cast(list[list[Sparsify]], masks)
        outs = jobs.merge_jobs(bases, experts, weights, scales, ready, layout, *tail)
    return [out.view(each.shape) for out, each in zip(outs, checked, strict=True)]


def sum_checked(
    checked: Sequence[Operands],
    weights: torch.Tensor,
    layout: Layout,
    out_dtype: torch.dtype | None,
    backend: str,
    *,
    traced: bool,
) -> list[torch.Tensor]:
    """Sums checked tensors, through the operator where it is to be traced."""
    dtype = None if out_dtype is None else arguments.out_dtype(out_dtype, backend)
    inputs = [x for each in checked for x in each.tensors]
    if traced:
        outs = autograd.weighted_sum(inputs, weights, layout.owners, layout.sizes, dtype, backend)
    else:
        outs = jobs.sum_jobs(inputs, weights, layout, dtype, backend)
    return [out.view(each.shape) for out, each in zip(outs, checked, strict=True)]


def whole(checked: Sequence[Operands]) -> Layout:
    """One job per tensor."""
    return Layout(list(range(len(checked))), [each.numel for each in checked])


def _encoded(
    masks: MaskOptions | list[list[Sparsify]],
    bases: list[torch.Tensor],
    experts: list[torch.Tensor],
    names: list[str],
    backend: str,
) -> torch.Tensor:
    """Masks as a tensor; those not found yet are found when the graph runs."""
    if not isinstance(masks, MaskOptions):
        return encode(masks)
    found: torch.Tensor = autograd.find_masks(
        bases,
        experts,
        masks.kind,
        masks.densities,
        masks.gammas,
        masks.rescale,
        masks.seed,
        names,
        backend,
    )
    return found


def _named(
    bases: Sequence[Array], experts: Sequence[Sequence[Array]]
) -> list[list[tuple[str, object]]]:
    """For every tensor, the base's and the experts'."""
    named_bases = arguments.listed("bases", bases)
    columns = _columns("experts", experts, len(named_bases))
    return [
        [named_bases[t], *((f"experts[{i}][{t}]", column[t]) for i, column in enumerate(columns))]
        for t in range(len(named_bases))
    ]


def _columns(name: str, models: object, count: int | None = None) -> list[Sequence[object]]:
    """One list of as many tensors per model."""
    columns: list[Sequence[object]] = []
    for label, model in arguments.listed(name, models):
        listed = [tensor for _, tensor in arguments.listed(label, model)]
        count = len(listed) if count is None else count
        if len(listed) != count:
            raise ArgumentError(f"{label} has {len(listed)} tensors; expected {count}")
        columns.append(listed)
    return columns


def _checked(named: Sequence[Sequence[tuple[str, object]]], backend: str) -> list[Operands]:
    checked = [arguments.operands(pairs, backend) for pairs in named]
    for pairs, each in zip(named, checked, strict=True):
        if each.device != checked[0].device:
            raise ArgumentError(
                f"{pairs[0][0]} is on {each.device}, but {named[0][0][0]} is on "
                f"{checked[0].device}; move all tensors of a call to one device"
            )
    return checked


def _names(names: object, count: int, masks: MaskOptions | list[list[Sparsify]]) -> list[str]:
    if names is None:
        if isinstance(masks, MaskOptions) and masks.kind == "random":
            raise ArgumentError(
                f"sparsify is 'random', which needs names: {count} names, one per tensor, so that "
                "no two tensors get the same mask"
            )
        return [""] * count
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"names must be a list of strings, got {names!r}")
    if len(names) != count:
        raise ArgumentError(f"names has {len(names)} values; expected {count}, one per tensor")
    return list(names)

"""The merges as torch operators, so that autograd and ``torch.compile`` can carry them.

Each operator takes every tensor of a call as lists and gives one node of the graph, whatever the
number of tensors; see :mod:`mergesafe.ops.jobs` for what the arguments hold. The backward passes
reduce to a few float64 sums per job, and allocate nothing of a tensor's size where gradients
arrive contiguous. Gradients of the inputs, and of gradients, are not defined.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.library import custom_op

from mergesafe.errors import ArgumentError
from mergesafe.ops import jobs
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.coefficients import Layout
from mergesafe.ops.masks import MaskOptions, decode, encode, find_all
from mergesafe.ops.memory import aligned, named_memory_errors

Tensor = torch.Tensor
Grads = list[Tensor | None]

IN_BACKWARD = "in the backward pass of a merge"


def _check_finite(name: str, values: Tensor) -> None:
    """Values on another device than the CPU are not read, which would wait for the device."""
    if values.device.type == "cpu" and not values.isfinite().all():
        bad = ~values.isfinite()
        row = int(bad.nonzero()[0, 0])
        raise ArgumentError(f"{name} must be finite, got {float(values[bad][0])} in row {row}")


@custom_op(
    "mergesafe::weighted_sum",
    mutates_args=(),
    schema="(Tensor[] inputs, Tensor weights, int[] owners, SymInt[] sizes, "
    "ScalarType? out_dtype, str backend) -> Tensor[]",
)
def weighted_sum(
    inputs: list[Tensor],
    weights: Tensor,
    owners: list[int],
    sizes: list[int],
    out_dtype: torch.dtype | None,
    backend: str,
) -> list[Tensor]:
    """See :func:`mergesafe.ops.jobs.sum_jobs`."""
    _check_finite("weights", weights)
    inputs = list(map(aligned, inputs))
    return jobs.sum_jobs(inputs, weights, Layout(owners, sizes), out_dtype, backend)


@weighted_sum.register_fake
def _(inputs: list[Tensor], weights: Tensor, *rest: Any) -> list[Tensor]:
    out_dtype = rest[-2]
    return jobs.empty_outputs(jobs.grouped(inputs, weights.shape[1]), out_dtype)


@custom_op(
    "mergesafe::weighted_sum_backward",
    mutates_args=(),
    schema="(Tensor?[] grads, Tensor[] inputs, int[] owners, SymInt[] sizes, str backend) "
    "-> Tensor",
)
def weighted_sum_backward(
    grads: Grads, inputs: list[Tensor], owners: list[int], sizes: list[int], backend: str
) -> Tensor:
    """See :func:`mergesafe.ops.jobs.sum_gradients`."""
    inputs = list(map(aligned, inputs))
    with named_memory_errors(inputs[0].device, lambda: IN_BACKWARD):
        return jobs.sum_gradients(grads, inputs, Layout(owners, sizes), backend)


@weighted_sum_backward.register_fake
def _(
    grads: Grads, inputs: list[Tensor], owners: list[int], sizes: list[int], backend: str
) -> Tensor:
    count = len(inputs) // len(grads)
    return inputs[0].new_empty(len(owners), count, dtype=torch.float64)


def _sum_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, weights, *ctx.layout, _, ctx.backend = inputs
    ctx.device = weights.device
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _sum_backward(ctx: Any, grads: Grads) -> tuple[Any, ...]:
    inputs = list(ctx.saved_tensors)
    found = None
    if any(grad is not None for grad in grads):
        found = weighted_sum_backward(grads, inputs, *ctx.layout, ctx.backend).to(ctx.device)
    return [None] * len(inputs), found, None, None, None, None


weighted_sum.register_autograd(_sum_backward, setup_context=_sum_context)


@custom_op(
    "mergesafe::merge_task_vectors",
    mutates_args=(),
    schema="(Tensor[] bases, Tensor[] experts, Tensor weights, Tensor scales, Tensor masks, "
    "int[] owners, SymInt[] sizes, str elect, bool normalize, ScalarType? out_dtype, str backend) "
    "-> Tensor[]",
)
def merge_task_vectors(
    bases: list[Tensor],
    experts: list[Tensor],
    weights: Tensor,
    scales: Tensor,
    masks: Tensor,
    owners: list[int],
    sizes: list[int],
    elect: Any,
    normalize: bool,
    out_dtype: torch.dtype | None,
    backend: str,
) -> list[Tensor]:
    """See :func:`mergesafe.ops.jobs.merge_jobs`; masks as :func:`encode` writes them."""
    _check_finite("weights", weights)
    _check_finite("scale", scales)
    layout = Layout(owners, sizes)
    vectors = decode(masks)
    bases, experts = list(map(aligned, bases)), list(map(aligned, experts))
    return jobs.merge_jobs(
        bases, experts, weights, scales, vectors, layout, elect, normalize, out_dtype, backend
    )


@merge_task_vectors.register_fake
def _(bases: list[Tensor], experts: list[Tensor], weights: Tensor, *rest: Any) -> list[Tensor]:
    out_dtype = rest[-2]
    groups = jobs.grouped(experts, weights.shape[1])
    pairs = zip(bases, groups, strict=True)
    return jobs.empty_outputs([[base, *group] for base, group in pairs], out_dtype)


@custom_op(
    "mergesafe::merge_task_vectors_backward",
    mutates_args=(),
    schema="(Tensor?[] grads, Tensor[] bases, Tensor[] experts, Tensor weights, Tensor scales, "
    "Tensor masks, int[] owners, SymInt[] sizes, str elect, bool normalize, str backend) "
    "-> Tensor",
)
def merge_task_vectors_backward(
    grads: Grads,
    bases: list[Tensor],
    experts: list[Tensor],
    weights: Tensor,
    scales: Tensor,
    masks: Tensor,
    owners: list[int],
    sizes: list[int],
    elect: Any,
    normalize: bool,
    backend: str,
) -> Tensor:
    """See :func:`mergesafe.ops.jobs.merge_gradients`."""
    layout = Layout(owners, sizes)
    vectors = decode(masks)
    bases, experts = list(map(aligned, bases)), list(map(aligned, experts))
    with named_memory_errors(bases[0].device, lambda: IN_BACKWARD):
        return jobs.merge_gradients(
            grads, bases, experts, weights, scales, vectors, layout, elect, normalize, backend
        )


@merge_task_vectors_backward.register_fake
def _(
    grads: Grads, bases: list[Tensor], experts: list[Tensor], weights: Tensor, scales: Tensor,
    masks: Tensor, owners: list[int], *rest: Any
) -> Tensor:  # fmt: skip
    return bases[0].new_empty(len(owners), weights.shape[1] + 1, dtype=torch.float64)


def _merge_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    bases, experts, weights, scales, masks, *ctx.options, _, ctx.backend = inputs
    ctx.count = len(bases)
    ctx.save_for_backward(weights, scales, masks, *bases, *experts)
    ctx.set_materialize_grads(False)


def _merge_backward(ctx: Any, grads: Grads) -> tuple[Any, ...]:
    weights, scales, masks, *tensors = ctx.saved_tensors
    bases, experts = tensors[: ctx.count], tensors[ctx.count :]
    of_weights = of_scales = None
    if any(grad is not None for grad in grads):
        found = merge_task_vectors_backward(
            grads, bases, experts, weights, scales, masks, *ctx.options, ctx.backend
        )
        of_weights, of_scales = found[:, :-1].to(weights.device), found[:, -1].to(scales.device)
    nothing = [None] * len(bases), [None] * len(experts)
    return *nothing, of_weights, of_scales, *[None] * 7


merge_task_vectors.register_autograd(_merge_backward, setup_context=_merge_context)


@custom_op(
    "mergesafe::find_masks",
    mutates_args=(),
    schema="(Tensor[] bases, Tensor[] experts, str kind, float[] densities, float[] gammas, "
    "str rescale, int seed, str[] names, str backend) -> Tensor",
)
def find_masks(
    bases: list[Tensor],
    experts: list[Tensor],
    kind: Any,
    densities: list[float],
    gammas: list[float],
    rescale: Any,
    seed: int,
    names: list[str],
    backend: str,
) -> Tensor:
    """The masks of all tensors as :func:`mergesafe.ops.masks.encode` writes them."""
    options = MaskOptions(kind, densities, gammas, rescale, seed)
    bases, experts = list(map(aligned, bases)), list(map(aligned, experts))
    groups = jobs.grouped(experts, len(densities))
    runner = get_backend(backend, bases[0].device)
    return encode(find_all(options, bases, groups, names, runner))


@find_masks.register_fake
def _(
    bases: list[Tensor], experts: list[Tensor], kind: Any, densities: list[float], *rest: Any
) -> Tensor:
    return torch.empty(len(bases), len(densities), 6, dtype=torch.int64)

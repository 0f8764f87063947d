"""Calls of a backend on jobs: flat tensors and one row of coefficients per job in, tensors out.

``experts`` and ``inputs`` hold the N tensors of every model for tensor 0, then those for tensor 1
and so on. Weights [jobs, N] and scales [jobs] are float64 tensors on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import Elect, MergeJob
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.coefficients import Layout
from mergesafe.ops.gradients import finish
from mergesafe.ops.memory import named_memory_errors

Tensors: TypeAlias = Sequence[torch.Tensor]
Groups: TypeAlias = Sequence[Tensors]
#: (tensor, first element, number of elements) of a job.
Run: TypeAlias = tuple[int, int, int]


def sum_jobs(
    inputs: Tensors,
    weights: torch.Tensor,
    layout: Layout,
    out_dtype: torch.dtype | None,
    backend: str,
) -> list[torch.Tensor]:
    """The weighted sum of every job, one output per tensor."""
    groups = grouped(inputs, weights.shape[1])
    runner = get_backend(backend, inputs[0].device)
    with named_memory_errors(inputs[0].device, lambda: needs(groups, out_dtype)):
        outs = empty_outputs(groups, out_dtype)
        runner.sum_jobs(
            [[cut(x, run) for x in groups[run[0]]] for run in runs(layout)],
            _values(weights, inputs),
            [cut(outs[run[0]], run) for run in runs(layout)],
        )
    return outs


def sum_gradients(
    grads: Sequence[torch.Tensor | None], inputs: Tensors, layout: Layout, backend: str
) -> torch.Tensor:
    """float64 [jobs, N]: gradients of the weights, zero where an output has none."""
    groups = grouped(inputs, len(inputs) // len(grads))
    runner = get_backend(backend, inputs[0].device)
    live = _live(grads, layout)
    found = runner.inner_products(
        live.grads, [[cut(x, run) for x in groups[run[0]]] for run in live.runs]
    )
    return live.spread(found)


def merge_jobs(
    bases: Tensors,
    experts: Tensors,
    weights: torch.Tensor,
    scales: torch.Tensor,
    masks: Sequence[Sequence[Sparsify]],
    layout: Layout,
    elect: Elect,
    normalize: bool,
    out_dtype: torch.dtype | None,
    backend: str,
) -> list[torch.Tensor]:
    """The merge of every job, one output per tensor."""
    groups = [[b, *xs] for b, xs in zip(bases, grouped(experts, weights.shape[1]), strict=True)]
    runner = get_backend(backend, bases[0].device)
    with named_memory_errors(bases[0].device, lambda: needs(groups, out_dtype)):
        outs = empty_outputs(groups, out_dtype)
        runner.merge_jobs(
            [job_at(run, groups, masks) for run in runs(layout)],
            _values(weights, [*bases, *experts]),
            _values(scales, [*bases, *experts]),
            elect,
            normalize,
            [cut(outs[run[0]], run) for run in runs(layout)],
        )
    return outs


def merge_gradients(
    grads: Sequence[torch.Tensor | None],
    bases: Tensors,
    experts: Tensors,
    weights: torch.Tensor,
    scales: torch.Tensor,
    masks: Sequence[Sequence[Sparsify]],
    layout: Layout,
    elect: Elect,
    normalize: bool,
    backend: str,
) -> torch.Tensor:
    """float64 [jobs, N + 1]: gradients of the weights, then of the scale, zero where an output
    has none.
    """
    groups = [[b, *xs] for b, xs in zip(bases, grouped(experts, weights.shape[1]), strict=True)]
    runner = get_backend(backend, bases[0].device)
    live = _live(grads, layout)
    used = live.chosen(_values(weights, [*bases, *experts]))
    factors = live.chosen(_values(scales, [*bases, *experts]))
    merges = [job_at(run, groups, masks) for run in live.runs]
    sums = runner.merge_gradients(live.grads, merges, used, elect, normalize)
    of_weights, of_scales = finish(sums, used, factors, elect, normalize)
    return live.spread(torch.cat([of_weights, of_scales.unsqueeze(1)], dim=1))


def runs(layout: Layout) -> Iterator[Run]:
    """Where every job lies."""
    previous, start = -1, 0
    for owner, size in zip(layout.owners, layout.sizes, strict=True):
        start = start if owner == previous else 0
        yield owner, start, size
        previous, start = owner, start + size


def cut(tensor: torch.Tensor, run: Run) -> torch.Tensor:
    """A run of a flat tensor's elements, as a view."""
    _, start, size = run
    return tensor if size == tensor.numel() else tensor[start : start + size]


def job_at(run: Run, groups: Groups, masks: Sequence[Sequence[Sparsify]]) -> MergeJob:
    """The job that lies there; a group is a base and its experts."""
    base, *experts = (cut(x, run) for x in groups[run[0]])
    return MergeJob(base, experts, masks[run[0]], run[1])


def grouped(tensors: Tensors, count: int) -> list[Tensors]:
    """Lists of ``count`` consecutive tensors."""
    return [tensors[i : i + count] for i in range(0, len(tensors), count)]


def empty_outputs(groups: Groups, out_dtype: torch.dtype | None) -> list[torch.Tensor]:
    """One output per group, of the dtype asked for or the group's common type."""
    return [group[0].new_empty(group[0].shape, dtype=_dtype(group, out_dtype)) for group in groups]


def needs(groups: Groups, out_dtype: torch.dtype | None) -> str:
    """The bytes of the outputs of these groups, for messages."""
    size = sum(group[0].numel() * _dtype(group, out_dtype).itemsize for group in groups)
    return f"in a merge of {len(groups)} tensors whose output takes {size:,} bytes"


def _dtype(group: Tensors, out_dtype: torch.dtype | None) -> torch.dtype:
    return out_dtype or reduce(torch.promote_types, [x.dtype for x in group])


def _values(values: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """As kernels take them: of the dtype they compute in, beside the tensors."""
    wide = any(x.dtype is torch.float64 for x in tensors)
    real = torch.float64 if wide else torch.float32
    device = tensors[0].device
    # To a device without waiting; from one to the CPU the values must have arrived.
    waits = device.type == "cpu"
    return values.to(real).to(device, non_blocking=not waits).contiguous()


@dataclass(frozen=True)
class _Live:
    """The jobs whose output has a gradient, among ``count``."""

    count: int
    numbers: list[int]
    runs: list[Run]
    grads: list[torch.Tensor]

    def chosen(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of these jobs."""
        return rows if len(self.numbers) == self.count else rows[self.numbers]

    def spread(self, found: torch.Tensor) -> torch.Tensor:
        """The rows of these jobs in their places, zeros elsewhere."""
        if len(self.numbers) == self.count:
            return found
        result = found.new_zeros(self.count, found.shape[1])
        result[self.numbers] = found
        return result


def _live(grads: Sequence[torch.Tensor | None], layout: Layout) -> _Live:
    flat = {t: grad.contiguous().view(-1) for t, grad in enumerate(grads) if grad is not None}
    live = [(j, run) for j, run in enumerate(runs(layout)) if run[0] in flat]
    pieces = [cut(flat[run[0]], run) for _, run in live]
    return _Live(layout.count, [j for j, _ in live], [run for _, run in live], pieces)

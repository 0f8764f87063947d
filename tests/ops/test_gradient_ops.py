"""The operators behind the gradients: torch's own checks, compilers, and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mergesafe import ops
from mergesafe.errors import ArgumentError
from mergesafe.methods.sparsify import random_key
from mergesafe.methods.spec import KEEP_NONE, Sparsify
from mergesafe.ops import autograd
from mergesafe.ops.backends.reference import ReferenceBackend
from mergesafe.ops.masks import decode, encode

from .gradient_cases import BACKENDS, MASKS, batch, leaf, masks_of, models
from .helpers import BF16, F32, assert_same_bits

F64 = torch.float64


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("out_dtype", [None, BF16])
def test_opcheck(out_dtype: torch.dtype | None, backend: str) -> None:
    bases, columns, names = batch()
    bases = [base.reshape(-1) for base in bases]
    experts = [column[t].reshape(-1) for t in range(5) for column in columns]
    weights = torch.rand(6, 3, dtype=F64, requires_grad=True)
    scales = torch.rand(6, dtype=F64, requires_grad=True)
    layout = [0, 1, 2, 3, 3, 4], [24, 1, 0, 2000, 3000, 30]
    masks = encode([[Sparsify(rescale=0.5), Sparsify(*KEEP_NONE), Sparsify()]] * 5)

    merge = (bases, experts, weights, scales, masks, *layout, "sum", True, out_dtype, backend)
    torch.library.opcheck(autograd.merge_task_vectors, merge)
    torch.library.opcheck(autograd.weighted_sum, (experts, weights, *layout, out_dtype, backend))

    grads = [torch.ones_like(bases[0]), None, bases[2], torch.ones_like(bases[3]), None]
    constants = weights.detach(), scales.detach(), masks
    merged = (grads, bases, experts, *constants, *layout, "sum", True, backend)
    torch.library.opcheck(autograd.merge_task_vectors_backward, merged)
    torch.library.opcheck(autograd.weighted_sum_backward, (grads, experts, *layout, backend))

    find = ("magnitude", [0.5, 0.2, 1.0], [0.0] * 3, "l1", 3, names, backend)
    torch.library.opcheck(autograd.find_masks, (bases, experts, *find))


def test_masks_survive_as_a_tensor() -> None:
    masks = [
        [Sparsify(), Sparsify(*KEEP_NONE, rescale=1 / 3), Sparsify(0x3F800000, 0x7F800001)],
        [Sparsify(random=True, key=random_key(s, "x", 1), threshold=2**32 - 1) for s in range(3)],
        [Sparsify(random=True, key=key) for key in (0, 2**63, 2**64 - 1)],
    ]
    assert decode(encode(masks)) == masks


def _compiled_equals_eager(function: Callable[..., torch.Tensor], compiler: str) -> None:
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    for _ in range(2):  # compile, then run again
        grads = []
        outs = []
        for each in (function, compiled):
            weights, scale = leaf(0.5, -0.25, 0.75), torch.tensor(0.625, requires_grad=True)
            out = each(weights, scale)
            (out.float() * torch.arange(out.numel()).view(out.shape)).sum().backward()
            outs.append(out.detach())
            grads.append(torch.stack([*weights.grad, scale.grad]))
        assert_same_bits(outs[1], outs[0])
        assert torch.equal(grads[1], grads[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", MASKS)
def test_compiled_merges(kind: str, backend: str) -> None:
    base, experts = models(30, 40, dtype=BF16)
    masks = masks_of(base, experts, kind, backend)

    def direct(weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return 2 * ops.merge_task_vectors(
            base, experts, weights, **MASKS[kind], name="w", elect="sum", normalize=True,
            scale=scale, backend=backend,
        )  # fmt: skip

    def ready(weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return 2 * ops.merge_task_vectors(
            base, experts, weights, sparsify=masks, elect="sum", normalize=True, scale=scale,
            backend=backend,
        )  # fmt: skip

    _compiled_equals_eager(direct, "aot_eager")
    _compiled_equals_eager(ready, "aot_eager")


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled_batches(compiler: str) -> None:
    bases, experts, names = batch()

    def both(weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        merged = ops.merge_task_vectors_batch(
            bases, experts, weights, **MASKS["random"], scale=scale, names=names,
            backend="reference",
        )  # fmt: skip
        summed = ops.weighted_sum_batch(experts, weights, backend="reference")
        return torch.cat([x.flatten().float() for x in (*merged, *summed)])

    _compiled_equals_eager(both, compiler)


def test_other_masks_compile_again() -> None:
    base, experts = models(30, 40)
    masks = [masks_of(base, experts, kind, "reference") for kind in MASKS]

    def merged(weights: torch.Tensor, masks: list[Sparsify]) -> torch.Tensor:
        return ops.merge_task_vectors(base, experts, weights, sparsify=masks) + 1

    compiled = torch.compile(merged, fullgraph=True, backend="aot_eager")
    weights = torch.tensor([0.5, -0.25, 0.75])
    for each in masks:
        assert_same_bits(compiled(weights, each), merged(weights, each))


def test_compiled_numbers_are_traced_too() -> None:
    base, experts = models(30, 40)

    def merged() -> torch.Tensor:
        return ops.merge_task_vectors(base, experts, [0.5, -0.25, 0.75], normalize=True) + 1

    compiled = torch.compile(merged, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(), merged())


def test_values_are_checked_where_the_graph_runs() -> None:
    base, experts = models(3, 4)
    rows = torch.tensor([[0.5, 0.5, 0.5]] * 3)
    rows[2, 1] = -float("inf")
    with pytest.raises(ArgumentError, match="weights must be finite, got -inf in row 2"):
        ops.merge_task_vectors(base, experts, rows)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match=f"weights must be finite, got {bad} in row 0"):
            ops.merge_task_vectors(base, experts, torch.tensor([0.5, bad, 0.75]))
        with pytest.raises(ArgumentError, match="weights must be finite, got"):
            ops.weighted_sum(experts, torch.tensor([0.5, bad, 0.75]))
        with pytest.raises(ArgumentError, match="scale must be finite, got"):
            ops.merge_task_vectors(base, experts, [0.5, 0.5, 0.5], scale=torch.tensor(bad))


def _largest_allocation(work: Callable[[], None]) -> int:
    """Bytes that any one operation allocates and does not free itself."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    return max(event.self_cpu_memory_usage for event in profiler.events())


def _small(self: Any, grads: Any, jobs: Any, weights: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.zeros(len(jobs), weights.shape[1] + 1, dtype=F64)


def _wasteful(self: Any, grads: Any, jobs: Any, weights: torch.Tensor, *rest: Any) -> torch.Tensor:
    return _small(self, grads, jobs, weights) + grads[0].double()[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_allocates_nothing_of_a_tensors_size(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """The reference itself does, so its place is taken by what allocates nothing (all that is
    around it is measured) and then by one copy, to see that the test can fail.
    """
    numel = 300_000
    base, experts = models(3, numel // 3, dtype=BF16)
    weights, scale = leaf(0.5, -0.25, 0.75), torch.tensor(0.625, requires_grad=True)
    upstream = torch.ones_like(base)

    def backward(rows: torch.Tensor) -> int:
        out = ops.merge_task_vectors(
            base, experts, rows, elect="sum", normalize=True, scale=scale, backend=backend
        )
        return _largest_allocation(lambda: out.backward(upstream))

    if backend == "reference":
        monkeypatch.setattr(ReferenceBackend, "merge_gradients", _small)
    assert 0 < backward(weights) < 4096
    assert 0 < backward(weights.expand(3, 3)) < 4096
    monkeypatch.setattr(type(ops.get_backend(backend)), "merge_gradients", _wasteful)
    assert backward(weights) >= numel * 8


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_node_for_a_batch(backend: str) -> None:
    bases, experts, _ = batch()
    weights = leaf(0.5, -0.25, 0.75)
    outs = ops.merge_task_vectors_batch(bases, experts, weights, backend=backend)
    nodes = {out.grad_fn.next_functions[0][0] for out in outs}
    assert len(nodes) == 1
    assert all(out.dtype is x.dtype for out, x in zip(outs, bases, strict=True))
    assert outs[0].dtype is F32


def test_compiled_merges_of_tensors_at_odd_bytes() -> None:
    """Only when the compiled merge runs is there an address to look at."""
    right, other = torch.randn(1000), torch.randn(1000)
    content = bytearray(1) + right.numpy().tobytes()
    odd = torch.frombuffer(content, dtype=torch.float32, offset=1)

    def merged(base: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        return ops.merge_task_vectors(
            base, [expert], [0.5], sparsify="magnitude", density=0.3, backend="native"
        )

    compiled = torch.compile(merged, backend="aot_eager")
    for base, expert in ((odd, other), (other, odd)):
        expected = merged(*(right if each is odd else each for each in (base, expert)))
        assert compiled(base, expert).equal(expected)

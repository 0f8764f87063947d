"""Gradients of weights and scale: against finite differences and against torch's own autograd."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from mergesafe import ops
from mergesafe.errors import ArgumentError
from mergesafe.ops.backends.reference import ReferenceBackend

from .gradient_cases import BACKENDS, ELECT, MASKS, batch, leaf, masks_of, models
from .helpers import BF16, F16, F32, assert_same_bits, ordinary

F64 = torch.float64
COMBINE = list(itertools.product(ELECT, (False, True)))


def _gradcheck(function: Any, inputs: tuple[torch.Tensor, ...]) -> bool:
    """Steps of 1e-6 in float64 leave about 1e-10 of rounding, relative to outputs near 1, and
    1e-12 of truncation, times powers of divisors that are a few tenths.
    """
    return torch.autograd.gradcheck(function, inputs, eps=1e-6, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("elect", "normalize"), COMBINE)
@pytest.mark.parametrize("kind", MASKS)
def test_gradcheck(kind: str, elect: Any, normalize: bool) -> None:
    """In float64, where finite differences are sharp; masks do not depend on the coefficients."""
    base, experts = models(4, 3, dtype=F64)
    masks = masks_of(base, experts, kind, "reference")

    def merged(weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return ops.merge_task_vectors(
            base, experts, weights, sparsify=masks, elect=elect, normalize=normalize,
            scale=scale, backend="reference",
        )  # fmt: skip

    weights, scale = leaf(0.5, -0.3, 0.8, dtype=F64), torch.tensor(0.7, dtype=F64)
    assert _gradcheck(merged, (weights, scale.requires_grad_()))
    rows = leaf([0.5, -0.3, 0.8], [0.3, 0.45, -0.6], dtype=F64)
    assert _gradcheck(merged, (rows, leaf(0.7, -1.2, dtype=F64)))
    if kind == "none":
        assert _gradcheck(merged, (rows, scale))
        assert _gradcheck(merged, (weights, leaf(0.7, -1.2, dtype=F64)))


@pytest.mark.parametrize(("elect", "normalize"), COMBINE)
def test_gradcheck_of_a_batch(elect: Any, normalize: bool) -> None:
    bases, experts, names = batch(dtypes=(F64,) * 5)
    bases, experts = bases[:3] + bases[4:], [column[:3] + column[4:] for column in experts]
    find = {"names": names[:4], "backend": "reference"}
    masks = ops.find_masks_batch(bases, experts, **MASKS["random"], **find)

    def merged(weights: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outs = ops.merge_task_vectors_batch(
            bases, experts, weights, sparsify=masks, elect=elect, normalize=normalize,
            scale=scale, backend="reference",
        )  # fmt: skip
        return tuple(outs)

    rows = (0.1 * ordinary(12, F64, 3) + 0.4).view(4, 3).requires_grad_()
    assert _gradcheck(merged, (rows, leaf(0.7, -1.2, 0.3, 2.0, dtype=F64)))
    assert _gradcheck(merged, (leaf(0.5, -0.3, 0.8, dtype=F64), rows[:, 0]))


def test_gradcheck_of_sums() -> None:
    _, tensors = models(4, 6, dtype=F64)

    def total(weights: torch.Tensor) -> torch.Tensor:
        return ops.weighted_sum(tensors, weights, backend="reference")

    def totals(weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        columns = [[x, x[:1], x[:0]] for x in tensors]
        return tuple(ops.weighted_sum_batch(columns, weights, backend="reference"))

    for rows in (leaf(0.5, -0.3, 0.8, dtype=F64), leaf([0.5, -0.3, 0.8], [1, 2, 3], dtype=F64)):
        assert _gradcheck(total, (rows,))
    for rows in (leaf(0.5, -0.3, 0.8, dtype=F64), leaf(*[[0.5, -0.3, 0.8]] * 3, dtype=F64)):
        assert _gradcheck(totals, (rows,))


def _dense(
    base: torch.Tensor,
    experts: list[torch.Tensor],
    masks: list[torch.Tensor],
    weights: torch.Tensor,
    scale: torch.Tensor,
    elect: str,
    normalize: bool,
) -> torch.Tensor:
    """The formula as torch expressions in float64."""
    base = base.double()
    parts = [
        mask * (x.double() - base) * weight
        for x, mask, weight in zip(experts, masks, weights, strict=True)
    ]
    if elect == "none":
        return base + scale * sum(parts) / (weights.sum() if normalize else 1.0)
    votes = sum(part.detach().sign() if elect == "count" else part.detach() for part in parts)
    sign = torch.where(votes >= 0, 1.0, -1.0)
    agrees = [(part.detach().sign() == sign).double() for part in parts]
    total = sum(a * part for a, part in zip(agrees, parts, strict=True))
    divisor = sum(a * weight for a, weight in zip(agrees, weights, strict=True))
    live = divisor.detach() != 0 if normalize else torch.zeros_like(base, dtype=torch.bool)
    return base + scale * total / torch.where(live, divisor, torch.ones_like(base))


def _close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-5 of the largest: every term has a few float32 roundings of 6e-8, and 9,000 terms
    of random sign cancel to about a hundredth of their absolute sum.
    """
    assert float((actual - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("elect", "normalize"), COMBINE)
@pytest.mark.parametrize("kind", ["none", "magnitude", "random"])
def test_against_torch_autograd(kind: str, elect: Any, normalize: bool, backend: str) -> None:
    base, experts = models(90, 100, dtype=BF16)
    options: dict[str, Any] = {"none": {}}.get(kind, {"sparsify": kind, "density": 0.5})
    options["name"] = "w"
    ones = torch.ones(9000, dtype=F64).view(90, 100)
    masks = [ones, ones, ones]
    if kind == "magnitude":
        deltas = [(x.double() - base.double()).abs() for x in experts]
        masks = [(d >= d.flatten().sort(descending=True).values[4499]).double() for d in deltas]
    if kind == "random":
        zero, one = torch.zeros(90, 100), torch.ones(90, 100)
        masks = [
            ops.merge_task_vectors(zero, [one] * 3, [float(j == i) for j in range(3)], **options)
            for i in range(3)
        ]
    upstream = ordinary(9000, F32, 7).view(90, 100)
    weights, scale = leaf(0.5, -0.25, 0.75), leaf(0.625)
    actual = ops.merge_task_vectors(
        base, experts, weights, elect=elect, normalize=normalize, scale=scale[0],
        out_dtype=F32, backend=backend, **options,
    )  # fmt: skip
    found = torch.autograd.grad(actual, (weights, scale), upstream)
    wide, factor = leaf(0.5, -0.25, 0.75, dtype=F64), leaf(0.625, dtype=F64)
    expected = _dense(base, experts, masks, wide, factor, elect, normalize)
    _close(actual.detach(), expected.detach())
    for mine, theirs in zip(
        found, torch.autograd.grad(expected, (wide, factor), upstream.double()), strict=True
    ):
        assert mine.dtype is F32
        _close(mine, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("elect", "normalize"), COMBINE)
def test_finite_differences_in_float32(elect: Any, normalize: bool, backend: str) -> None:
    """Along the scale, and along the weights themselves, where no elected sign changes and the
    result is linear: large steps have no truncation error.

    Two outputs near 1 are rounded to 6e-8 each and their differences summed over 6,000 elements
    with random signs, about 5e-6; a step of 0.5 doubles that.
    """
    base, experts = models(60, 100)
    upstream = ordinary(6000, F32, 7).view(60, 100)
    masks = masks_of(base, experts, "magnitude", backend)

    def loss(weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        out = ops.merge_task_vectors(
            base, experts, weights, sparsify=masks, elect=elect, normalize=normalize,
            scale=scale, backend=backend,
        )  # fmt: skip
        return (out.double() * upstream).sum()

    weights, scale = leaf(0.5, -0.25, 0.75), torch.tensor(0.625, requires_grad=True)
    of_weights, of_scale = torch.autograd.grad(loss(weights, scale), (weights, scale))
    with torch.no_grad():
        along_scale = loss(weights, scale + 0.25) - loss(weights, scale - 0.25)
        along_weights = loss(weights * 1.25, scale) - loss(weights * 0.75, scale)
    assert abs(float(of_scale) - float(along_scale) / 0.5) < 1e-4
    assert abs(float(of_weights @ weights.detach()) - float(along_weights) / 0.5) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
def test_gradients_have_the_dtype_of_the_coefficients(dtype: torch.dtype, backend: str) -> None:
    base, experts = models(30, 40, dtype=BF16)
    weights, scale = leaf(0.5, -0.25, 0.75, dtype=dtype), leaf(0.5, dtype=dtype)
    out = ops.merge_task_vectors(base, experts, weights, scale=scale[0], backend=backend)
    assert out.dtype is BF16
    out.backward(torch.ones_like(out))
    exact = [0.5 * float((x.double() - base.double()).sum()) for x in experts]
    assert weights.grad is not None
    assert scale.grad is not None
    # deltas of bfloat16 tensors this close are exact, so one rounding to dtype is all there is
    assert weights.grad.tolist() == torch.tensor(exact, dtype=F64).to(dtype).tolist()
    assert scale.grad.dtype is dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_rounding_counts_as_the_identity(backend: str) -> None:
    base, experts = models(30, 40)
    grads = []
    for out_dtype in (F32, BF16):
        weights = leaf(0.5, -0.25, 0.75)
        out = ops.merge_task_vectors(base, experts, weights, out_dtype=out_dtype, backend=backend)
        out.backward(torch.ones_like(out))
        grads.append(weights.grad)
    assert torch.equal(grads[0], grads[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_graph_can_be_used_again(backend: str) -> None:
    base, experts = models(30, 40)
    weights = leaf(0.5, -0.25, 0.75)
    merge: Any = lambda: ops.merge_task_vectors(  # noqa: E731
        base, experts, weights, normalize=True, backend=backend
    )
    out = merge()
    (once,) = torch.autograd.grad(out.square().sum(), weights, retain_graph=True)
    (again,) = torch.autograd.grad(out.square().sum(), weights)
    assert torch.equal(once, again)
    (twice,) = torch.autograd.grad((merge() + merge()).square().sum() / 4, weights)
    # sums of equal float32 values and powers of two are exact
    assert torch.equal(twice, once)
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_beside_a_tensor(backend: str) -> None:
    """Either of weights and scale may be plain numbers, with the other's gradient as it was."""
    base, experts = models(30, 40)
    weights, scale = leaf(0.5, -0.25, 0.75), torch.tensor(0.625, requires_grad=True)
    options = {"elect": "count", "normalize": True, "backend": backend}
    upstream = ordinary(1200, F32, 7).view(30, 40)

    def gradients(*given: Any, wrt: Any) -> tuple[torch.Tensor, ...]:
        out = ops.merge_task_vectors(base, experts, given[0], scale=given[1], **options)
        return torch.autograd.grad(out, wrt, upstream)

    both = gradients(weights, scale, wrt=(weights, scale))
    assert torch.equal(gradients(weights, 0.625, wrt=weights)[0], both[0])
    assert torch.equal(gradients([0.5, -0.25, 0.75], scale, wrt=scale)[0], both[1])


def test_second_derivatives_are_refused() -> None:
    base, experts = models(3, 4)
    weights = leaf(0.5, -0.25, 0.75)
    out = ops.merge_task_vectors(base, experts, weights, normalize=True, backend="reference")
    (first,) = torch.autograd.grad(out.square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="merge_task_vectors_backward"):
        torch.autograd.grad(first.sum(), weights)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_outputs_with_a_gradient_are_reduced(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    bases, experts, _ = batch()
    weights = (0.1 * ordinary(15, F32, 3) + 0.4).view(5, 3).requires_grad_()
    runner = type(ops.get_backend(backend))
    calls: list[int] = []
    original = runner.merge_gradients

    def counted(self: Any, grads: Any, *rest: Any) -> torch.Tensor:
        calls.append(len(grads))
        return original(self, grads, *rest)

    monkeypatch.setattr(runner, "merge_gradients", counted)
    outs = ops.merge_task_vectors_batch(bases, experts, weights, backend=backend)
    (outs[3].float().square().sum() + outs[0].sum()).backward()
    assert calls == [2]
    assert weights.grad is not None
    assert [bool(row.any()) for row in weights.grad] == [True, False, False, True, False]
    alone = weights.detach()[3].requires_grad_()
    columns = [column[3] for column in experts]
    single = ops.merge_task_vectors(bases[3], columns, alone, backend=backend)
    single.float().square().sum().backward()
    assert torch.equal(weights.grad[3], alone.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_elements_no_gradient(backend: str) -> None:
    empty = torch.zeros(0, 3)
    weights, scale = leaf(0.5, 1.0), leaf(2.0)
    out = ops.merge_task_vectors(
        empty, [empty, empty], weights, scale=scale[0], normalize=True, backend=backend
    )
    (out.sum() + ops.weighted_sum([empty, empty], weights, backend=backend).sum()).backward()
    assert weights.grad.tolist() == [0.0, 0.0]
    assert scale.grad.tolist() == [0.0]


def test_no_grad_records_nothing() -> None:
    base, experts = models(3, 4)
    weights = leaf(0.5, -0.25, 0.75)
    expected = ops.merge_task_vectors(base, experts, [0.5, -0.25, 0.75])
    with torch.no_grad():
        out = ops.merge_task_vectors(base.requires_grad_(), experts, weights)
    assert not out.requires_grad
    assert_same_bits(out, expected)
    assert not ops.merge_task_vectors(base.detach(), experts, weights.detach()).requires_grad


def test_constants_that_require_grad_are_refused() -> None:
    base, experts = models(3, 4)
    free = base.clone().requires_grad_()
    message = r"base requires grad.*weights and scale alone; pass base\.detach\(\)"
    with pytest.raises(ArgumentError, match=message):
        ops.merge_task_vectors(free, experts, leaf(1.0, 2.0, 3.0))
    with pytest.raises(ArgumentError, match=r"experts\[1\] requires grad"):
        ops.merge_task_vectors(base, [base, free], [0.5, 0.5])
    with pytest.raises(ArgumentError, match=r"tensors\[0\]\[1\] requires grad"):
        ops.weighted_sum_batch([[base, free]], [1.0])
    with pytest.raises(ArgumentError, match=r"experts\[0\]\[1\] requires grad"):
        ops.merge_task_vectors_batch([base, base], [[base, free]], [1.0])
    assert len(ops.find_masks(free, experts, sparsify="magnitude", density=0.5)) == 3


def test_the_reference_computes_in_float64() -> None:
    """float32 weights of a third are exact in float64, so the result is that of the formula."""
    base, experts = models(5, 7, dtype=F64)
    out = ops.merge_task_vectors(base, experts, [1 / 3] * 3, backend="reference")
    assert out.dtype is F64
    formula = base + sum((x - base) * (1 / 3) for x in experts)
    assert torch.equal(out, formula)
    assert isinstance(ops.get_backend("reference"), ReferenceBackend)
